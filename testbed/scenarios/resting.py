"""What a scenario's claims rest on among the lab's own resources, and the ways to break just that.

A resource of the lab is there for other things too: only what the claims are about is broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from testbed.model.scenario import Scenario, Step
from testbed.resources import Resource
from testbed.scenarios.building import walk
from testbed.scenarios.mutations import (
    Broken,
    Manifest,
    Operator,
    balancing,
    destinations,
    dropped,
    egress,
    labels,
    matches,
    mirrors,
    outliers,
    policies,
    pools,
    retries,
    timeouts,
    transport,
    weights,
)

Ways = dict[str, tuple[Operator, ...]]
"""Kind -> what breaks a claim that rests on a resource of it."""

_SHARE: Ways = {"VirtualService": (weights, destinations, matches), "DestinationRule": (labels,)}
_EJECTION: Ways = {"DestinationRule": (outliers,)}
_IDENTITY: Ways = {"DestinationRule": (transport,)}
_BALANCE: Ways = {"DestinationRule": (balancing,)}
CLAIMS: dict[str, Ways] = {
    "split": _SHARE,
    "never": _SHARE,
    "atLeastOnce": _SHARE,
    "timeout": {"VirtualService": (timeouts,)},
    "attempts": {"VirtualService": (retries, mirrors)},
    "balance": _BALANCE,
    "sticky": _BALANCE,
    "overflow": {"DestinationRule": (pools,)},
    "ejected": _EJECTION,
    "readmitted": _EJECTION,
    "encrypted": _IDENTITY,
    "identity": _IDENTITY,
    "denied by rbac": {"AuthorizationPolicy": (policies,)},
    "denied by jwt": {"RequestAuthentication": (policies,)},
    "denied by tls": {"PeerAuthentication": (transport,)},
    "denied by egress": {"Sidecar": (dropped, egress)},
}


def broken_claims(resource: Resource[Any], scenario: Scenario, points: float) -> Iterator[Broken]:
    """Every way to break a resource of the lab that breaks a claim of the scenario with it; each once."""
    plain = resource.to_plain()
    seen: set[str] = set()
    for step in scenario.each_step():
        for leaf, value in walk(step.expect):
            claim = f"denied by {value.by}" if leaf == "denied" else leaf
            if claim not in CLAIMS or not _concerns(plain, step, value):
                continue
            for operator in CLAIMS[claim].get(resource.kind, ()):
                for what, manifest in operator(plain, points):
                    if what not in seen and _claimed(operator, what, leaf, value):
                        seen.add(what)
                        yield what, manifest


def _claimed(operator: Operator, what: str, leaf: str, value: Any) -> bool:
    """Whether the claim is about the subset whose label is wrong."""
    if operator is not labels or leaf != "split":
        return operator is not labels
    return any(what.startswith(f"subset {arm}:") for arm, weight in value.weights.items() if weight)


def _concerns(manifest: Manifest, step: Step, value: Any) -> bool:
    """Whether the resource has to do with the step's traffic and those whom the expectation names."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "VirtualService":
        way = "gateway" if step.when.from_ == "gateway" else "mesh"
        if way not in {"mesh" if g == "mesh" else "gateway" for g in spec.get("gateways", ["mesh"])}:
            return False
    if not (about := _about(manifest)):
        return True
    named = {getattr(value, field, None) for field in ("service", "reached", "at", "workload")}
    named |= {step.when.from_ if manifest["kind"] == "Sidecar" else step.when.service}
    return any(name == a or name.startswith(f"{a}-") for name in named if name for a in about)


def _about(manifest: Manifest) -> set[str]:
    """Services and gateways that the resource is about, by their first name; none: all of them."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "VirtualService":
        routes = (route for rule in spec.get("http", []) for route in rule.get("route", []))
        return {r.get("destination", {}).get("host", "").partition(".")[0] for r in routes} - {""}
    if manifest["kind"] == "DestinationRule":
        return {str(spec.get("host", "")).partition(".")[0]}
    chosen = spec.get("workloadSelector", {}).get("labels") or spec.get("selector", {}).get("matchLabels", {})
    return {str(chosen[label]) for label in ("app", "istio") if label in chosen}
