"""Whether the client and the programs tell the same of each request: counts at both ends, by its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from typing import Any

from testbed.resources import ResourceSet
from testbed.scenarios.evidence import Evidence

ROUTES = ("VirtualService", "HTTPRoute", "GRPCRoute")
"""Kinds whose rules send requests on."""
COPIES = {"mirror", "mirrors", "requestMirror"}


def counts_disagree(evidence: Evidence, watched: Set[str]) -> str:
    """What is wrong when a program's log lacks a request that it answered; empty when both ends agree.

    More arrivals than answers are no disagreement: retries, mirrored copies and hedges arrive too.
    """
    arrived = {(a.request, a.workload) for a in evidence.arrivals}
    missing = [
        (evidence.spec.request_id(s.seq), instance)
        for s in evidence.samples
        if (instance := s.headers.get("x-instance", "")) in watched
        and (evidence.spec.request_id(s.seq), instance) not in arrived
    ]
    if not missing:
        return ""
    request, instance = missing[0]
    return f"{len(missing)} answered requests are not in the log of what arrived, first {request} at {instance}"


def repeated(evidence: Evidence, allowed: Set[str]) -> str:
    """What is wrong when a request arrived more than once at the service that answered it, which is none of those
    that ``allowed`` names, for a route repeats or copies their requests; empty when nothing is.

    Attempts that ended with an error are left out: Istio repeats some of these even where no route says so.
    """
    workloads = {w.name: w for w in evidence.lab.topology.workloads}
    arrived = Counter(
        (a.request, workloads[a.workload].service)
        for a in evidence.arrivals
        if a.status < 500 and a.workload in workloads
    )
    often = [
        (request, sample.service, count)
        for sample in evidence.samples
        if sample.answered
        and sample.service not in allowed
        and (count := arrived[(request := evidence.spec.request_id(sample.seq), sample.service)]) > 1
    ]
    if not often:
        return ""
    request, service, count = often[0]
    first = f"first {request} ({count} times at {service})"
    return f"{len(often)} answered requests arrived more than once, {first}; no route repeats or copies them"


def repeating(resources: ResourceSet) -> frozenset[str]:
    """The services for which some route has requests repeated or copied, by their short names."""
    rules = (rule for resource in resources if resource.kind in ROUTES for rule in _rules(resource.to_plain()))
    return frozenset(name.partition(".")[0] for rule in rules if _repeats(rule) for name in _named(rule))


def _rules(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    spec = manifest.get("spec", {})
    return [*spec.get("http", []), *spec.get("rules", [])]


def _repeats(rule: Mapping[str, Any]) -> bool:
    if rule.get("retries", {}).get("attempts") or "retry" in rule:
        return True
    return bool(COPIES & (rule.keys() | {key for f in rule.get("filters", []) for key in f}))


def _named(value: Any) -> Iterator[str]:
    """Every host (of a destination) or name (of a backend) that the rule speaks of."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("host", "name") and isinstance(inner, str):
                yield inner
            else:
                yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)
