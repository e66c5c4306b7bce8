"""Preference by place: endpoints in groups, with weights or priorities as a caller sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from testbed.compiler.services import Endpoint
from testbed.model.topology import Locality, MeshWorkload
from testbed.resources.destination_rule import LocalityLoadBalancerSetting, TrafficPolicy


@dataclass(frozen=True)
class Group:
    """Endpoints of one locality and one priority."""

    locality: Locality
    endpoints: tuple[Endpoint, ...]
    weight: int
    priority: int = 0


@dataclass(frozen=True)
class Viewer:
    """Where a caller is.  Callers for whom it doesn't matter share one view."""

    locality: Locality = field(default_factory=Locality)
    labels: tuple[tuple[str, str], ...] = ()
    """Those of its labels that ``failoverPriority`` names."""
    labelled: bool = False
    """Whether it has labels at all: ``failoverPriority`` counts then, with or without the labels that it names."""


def place_labels(labels: Mapping[str, str], locality: Locality, node: str = "") -> dict[str, str]:
    """Labels with the places that ``failoverPriority`` may name, as Istio derives them."""
    places = {
        "topology.kubernetes.io/region": locality.region,
        "topology.kubernetes.io/zone": locality.zone,
        "topology.istio.io/subzone": locality.subzone,
        "kubernetes.io/hostname": node,
    }
    return {**{k: v for k, v in places.items() if v}, **labels}


def locality_setting(policy: TrafficPolicy | None) -> LocalityLoadBalancerSetting | None:
    """The setting in force; ``None`` when it is turned off.  Istio's mesh has it on, with nothing in it."""
    balancer = policy.load_balancer if policy else None
    setting = balancer.locality_lb_setting if balancer else None
    if setting is None:
        return LocalityLoadBalancerSetting()
    return None if setting.enabled is False else setting


def is_weighted(policy: TrafficPolicy | None) -> bool:
    """Whether Envoy has to weigh localities (``locality_weighted_lb_config``)."""
    setting = locality_setting(policy)
    if setting is None or policy is None:
        return False
    failover = bool(setting.failover or setting.failover_priority) and policy.outlier_detection is not None
    return failover or bool(setting.distribute)


def viewer(policy: TrafficPolicy | None, workload: MeshWorkload) -> Viewer:
    """What of the caller's place matters under a policy."""
    setting = locality_setting(policy)
    if setting is None:
        return Viewer()
    if setting.distribute:
        return Viewer(workload.locality)
    if policy is None or policy.outlier_detection is None:
        return Viewer()  # without ejections nothing would ever fail over
    keys = {p.partition("=")[0] for p in setting.failover_priority}
    mine = place_labels(workload.labels, workload.locality, workload.node)
    return Viewer(workload.locality, tuple(sorted((k, v) for k, v in mine.items() if k in keys)), bool(mine))


def groups(endpoints: Sequence[Endpoint], policy: TrafficPolicy | None, seen_from: Viewer) -> list[Group]:
    """Endpoints by locality, in order of its name, weighted or put in order of preference."""
    by_place: dict[Locality, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_place.setdefault(endpoint.locality, []).append(endpoint)
    found = [
        Group(place, tuple(members), sum(e.weight for e in members))
        for place, members in sorted(by_place.items(), key=lambda item: str(item[0]))
    ]
    setting = locality_setting(policy)
    if setting is None:
        return found
    if setting.distribute:
        return _distributed(found, setting, seen_from.locality)
    if policy is None or policy.outlier_detection is None:
        return found
    if setting.failover_priority:
        if seen_from.labelled:
            found = [g for group in found for g in _by_priority(group, setting, dict(seen_from.labels))]
            found = _without_gaps(found)
        return _failing_over(found, setting, seen_from.locality) if setting.failover else found
    return _failing_over(found, setting, seen_from.locality)


def _matches(place: Locality, rule: str) -> bool:
    wanted = Locality.parse(rule)
    return (
        wanted.region in ("*", place.region)
        and wanted.zone in ("*", "", place.zone)
        and wanted.subzone in ("*", "", place.subzone)
    )


def _distributed(found: list[Group], setting: LocalityLoadBalancerSetting, place: Locality) -> list[Group]:
    rule = next((d for d in setting.distribute if _matches(place, d.from_)), None)
    if rule is None:
        return found
    weights: dict[int, int] = {}
    left = set(range(len(found)))
    # istiod goes through the map in no order; here the most specific place comes first
    for target, share in sorted(rule.to.items(), key=lambda item: (item[0].count("*"), -len(item[0]), item[0])):
        members = [i for i in sorted(left) if _matches(found[i].locality, target)]
        left -= set(members)
        total = sum(found[i].weight for i in members)
        for i in members:
            weights[i] = math.ceil(found[i].weight * share / total)
    return [
        replace(group, weight=weights[i] or group.weight) if i in weights else replace(group, endpoints=())
        for i, group in enumerate(found)
    ]


def _failing_over(found: list[Group], setting: LocalityLoadBalancerSetting, place: Locality) -> list[Group]:
    def distance(other: Locality) -> int:
        if other.region != place.region:
            target = next((f.to for f in setting.failover if f.from_ == place.region), None)
            return 3 if target is None or other.region == target else 4
        if other.zone != place.zone:
            return 2
        return 0 if other.subzone == place.subzone else 1

    return _without_gaps([replace(g, priority=g.priority * 5 + distance(g.locality)) for g in found])


def _by_priority(group: Group, setting: LocalityLoadBalancerSetting, mine: Mapping[str, str]) -> list[Group]:
    """Split a locality by how many of the labels, in order, an endpoint shares with the caller."""
    wanted = []
    for entry in setting.failover_priority:
        key, given, value = entry.partition("=")
        wanted.append((key, value if given else mine.get(key, "")))
    lowest = len(wanted)
    split: dict[int, list[Endpoint]] = {}
    for endpoint in group.endpoints:
        node = endpoint.workload.node if endpoint.workload else ""
        theirs = place_labels(endpoint.labels, endpoint.locality, node)
        shared = next((i for i, (k, v) in enumerate(wanted) if theirs.get(k, "") != v), lowest)
        split.setdefault(lowest - shared, []).append(endpoint)
    return [
        Group(group.locality, tuple(members), sum(e.weight for e in members), priority)
        for priority, members in sorted(split.items())
    ]


def _without_gaps(found: list[Group]) -> list[Group]:
    """Envoy wants priorities from 0 without holes."""
    order = {p: i for i, p in enumerate(sorted({g.priority for g in found}))}
    return [replace(g, priority=order[g.priority]) for g in found]
