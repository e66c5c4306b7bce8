"""What can't be asked of pods in Istio's ambient mode: no Envoy of theirs routes, refuses, or writes it down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from testbed.model.scenario import Step
from testbed.model.topology import Topology
from testbed.model.verdict import Verdict, not_applicable
from testbed.resources import ResourceSet
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import Afterwards, Terms
from testbed.scenarios.lab import LabUnderTest

_READS = {"identity": "service", "telemetry": "at", "config": "workload", "denied": "at"}
"""Expectations that are read from the Envoys of what the field names, and not from answers."""


def unread(name: str, value: Any, topology: Topology) -> str:
    """Why the leaf ``name`` of an expectation is not judged; empty when it is."""
    asked = getattr(value, _READS.get(name, ""), None)
    without = _without_envoy(asked, topology)
    return f"{without} is in ambient mode: no Envoy of its own has or tells it" if without else ""


def why_not(step: Step, wanted: ResourceSet, lab: LabUnderTest) -> str:
    """Why the step can't be asked of the lab with these resources; empty when it can."""
    when, leaves = step.when, list(step.expect.leaves())
    if when.from_ != "gateway" and not (caller := lab.caller(when.from_)).has_envoy:
        of_caller = f"{caller.name} is in ambient mode: "
        if not when.mesh:
            return f"{of_caller}all that leaves its pod is captured, whoever sends it"
        if "identity" in dict(leaves):
            return f"{of_caller}no Envoy of its own tells whom it met"
        for ignored in _rules_for(wanted, when.service or when.host or ""):
            return f"{of_caller}without a waypoint {ignored} does not count for what it sends"
    callee = _without_envoy(when.service, lab.topology)
    if callee and any(name == "denied" and value.by in ("rbac", "jwt") for name, value in leaves):
        return f"{callee} is in ambient mode: its ztunnel refuses connections, and answers no request"
    return ""


class Unread(Afterwards):
    """Stands for a judge that would have nothing to read."""

    def __init__(self, name: str, reason: str, terms: Terms) -> None:
        super().__init__(terms)
        self.name = name
        self.reason = reason

    def conclude(self, evidence: Evidence) -> Verdict:
        """NOT_APPLICABLE."""
        return not_applicable(self.reason)


def _without_envoy(name: str | None, topology: Topology) -> str:
    """The first workload of that name, or of the service of that name, that has no Envoy; empty when all have."""
    return next((w.name for w in topology.of_name(name) if not w.has_envoy), "") if name else ""


def _rules_for(wanted: ResourceSet, host: str) -> Iterator[str]:
    """Resources that a caller's Envoy goes by when it calls ``host``."""
    name = host.partition(".")[0].partition(":")[0]
    for service in wanted.virtual_services:
        hosts = {h.partition(".")[0] for h in service.spec.hosts}
        if hosts & {name, "*"} and "mesh" in (service.spec.gateways or ["mesh"]):
            yield str(service.key)
    for rule in wanted.destination_rules:
        if rule.spec.host.partition(".")[0] in (name, "*") and rule.spec.traffic_policy is not None:
            yield str(rule.key)
