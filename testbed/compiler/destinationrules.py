"""Which DestinationRule holds for a caller and a service, and the policy of a port and a subset.

istiod looks in the caller's namespace, then in the service's, then in the root namespace, and takes in the
first of them that has any the rule with the most specific host.  Rules of one namespace for the same host
are merged: the first top-level policy counts, and subsets are put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from testbed.compiler.names import is_wildcard, most_specific, qualified
from testbed.compiler.services import Service
from testbed.model.proxy import content_hash
from testbed.resources.destination_rule import (
    ClientTLSMode,
    DestinationRule,
    PortTrafficPolicy,
    SimpleLB,
    TrafficPolicy,
)
from testbed.resources.resource import Resource
from testbed.resources.values import selects


@dataclass(frozen=True)
class MergedRule:
    """One or several DestinationRules for the same host."""

    name: str
    """Of the first of them."""
    namespace: str
    spec: DestinationRule
    export_to: frozenset[str]
    digest: str

    @property
    def selector(self) -> Mapping[str, str] | None:
        """Labels of the callers that it is for; ``None`` for all."""
        selector = self.spec.workload_selector
        return None if selector is None else selector.match_labels

    def merged(self, other: MergedRule) -> MergedRule:
        """With the other's subsets that this one has not, and its policy if this one has none."""
        names = {s.name for s in self.spec.subsets}
        spec = self.spec.model_copy(
            update={
                "subsets": (*self.spec.subsets, *(s for s in other.spec.subsets if s.name not in names)),
                "traffic_policy": self.spec.traffic_policy or other.spec.traffic_policy,
            }
        )
        return replace(self, spec=spec, digest=content_hash(self.digest, other.digest))


@dataclass
class _Pool:
    exact: dict[str, list[MergedRule]] = field(default_factory=dict)
    wildcard: dict[str, list[MergedRule]] = field(default_factory=dict)

    def add(self, rule: MergedRule) -> None:
        table = self.wildcard if is_wildcard(rule.spec.host) else self.exact
        present = table.setdefault(rule.spec.host, [])
        apart = True
        for i, other in enumerate(present):
            if rule.export_to == other.export_to:
                apart = False
            elif not (other.export_to and rule.export_to > other.export_to):
                apart = True
                continue
            mine, theirs = rule.selector, other.selector
            if mine is not None and theirs is not None and mine != theirs:
                apart = True
                continue
            if (mine is None) == (theirs is None):
                apart = False
                present[i] = other.merged(rule)
            else:
                apart = True
        if apart:
            present.append(rule)

    def find(self, host: str) -> list[MergedRule]:
        return most_specific(host, self.exact, self.wildcard) or []


class DestinationRules:
    """All DestinationRules, ready to be asked."""

    def __init__(self, resources: Iterable[Resource[DestinationRule]], root_namespace: str) -> None:
        self._root = root_namespace
        self._local: dict[str, _Pool] = {}
        self._exported: dict[str, _Pool] = {}
        self._root_private = _Pool()
        self.selector_keys: frozenset[str] = frozenset()
        """Keys of the callers' labels that any rule's ``workloadSelector`` asks for."""
        keys: set[str] = set()
        ordered = list(resources)
        # rules with a selector come first, then by age (istiod's sortConfigBySelectorAndCreationTime)
        ordered.sort(key=lambda r: r.spec.workload_selector is None)
        for resource in ordered:
            rule = _single(resource)
            keys |= set(rule.selector or ())
            export, own = rule.export_to, resource.namespace
            if not export or export & {"*", ".", own}:
                self._local.setdefault(own, _Pool()).add(rule)
            if export not in ({"."}, {own}):
                self._exported.setdefault(own, _Pool()).add(rule)
            elif own == root_namespace:
                self._root_private.add(rule)
        self.selector_keys = frozenset(keys)

    def candidates(self, service: Service, namespace: str) -> list[MergedRule]:
        """The rules for callers of ``service`` in a namespace; several when workload selectors tell them apart."""
        if namespace == self._root:
            # what the root namespace says for everybody must not win over the service's own for gateways there
            found = self._root_private.find(service.host)
        else:
            found = self._local[namespace].find(service.host) if namespace in self._local else []
        if found:
            return found
        for owner in (service.namespace, self._root):
            pool = self._exported.get(owner)
            rules = pool.find(service.host) if pool else []
            visible = [r for r in rules if not r.export_to or r.export_to & {"*", namespace}]
            if visible:
                return visible
        return []

    def of(self, service: Service, namespace: str, labels: Mapping[str, str] | None) -> MergedRule | None:
        """The rule for a caller with these labels; ``labels=None`` asks for the receiving side, where selectors
        don't count."""
        general = None
        for rule in self.candidates(service, namespace):
            selector = rule.selector
            if selector is None:
                general = rule
            elif labels is not None and rule.namespace == namespace and selects(selector, labels):
                return rule
        return general


def _single(resource: Resource[DestinationRule]) -> MergedRule:
    spec = resource.spec
    # a rule for some workloads of a namespace is never for other namespaces
    export = frozenset(spec.export_to) if spec.workload_selector is None else frozenset({"."})
    spec = spec.model_copy(update={"host": qualified(spec.host, resource.namespace)})
    return MergedRule(resource.name, resource.namespace, spec, export, resource.digest)


def _as_policy(port: PortTrafficPolicy) -> TrafficPolicy:
    return TrafficPolicy(
        load_balancer=port.load_balancer,
        connection_pool=port.connection_pool,
        outlier_detection=port.outlier_detection,
        tls=port.tls,
    )


def for_port(policy: TrafficPolicy | None, port: int) -> tuple[TrafficPolicy | None, bool]:
    """The policy of a port, and whether it is the port's own.

    The port's own replaces the general one as a whole: what it leaves out has Istio's defaults.
    """
    if policy is None:
        return None, False
    for setting in policy.port_level_settings:
        if setting.port is not None and setting.port.number == port:
            return _as_policy(setting), True
    return policy, False


_FIELDS = ("connection_pool", "outlier_detection", "load_balancer", "tls")


def effective_policy(rule: DestinationRule | None, port: int, subset: str = "") -> TrafficPolicy | None:
    """The policy for a port of a service or subset: the subset's fields over the service's, each as a whole."""
    if rule is None:
        return None
    general, _ = for_port(rule.traffic_policy, port)
    chosen = next((s for s in rule.subsets if s.name == subset), None) if subset else None
    if chosen is None or chosen.traffic_policy is None:
        return general
    narrow, own_port = for_port(chosen.traffic_policy, port)
    if narrow is None or general is None:
        return narrow or general
    update = {f: getattr(narrow, f) for f in _FIELDS if own_port or getattr(narrow, f) is not None}
    if narrow.retry_budget is not None:
        update["retry_budget"] = narrow.retry_budget
    return general.model_copy(update=update)


def written_tls_mode(rule: DestinationRule | None, port: int, subset: str = "") -> ClientTLSMode | None:
    """The TLS mode that the rule itself gives a port, for marking endpoints; a subset's own only (istiod's
    tlsModeForDestinationRule)."""
    if rule is None:
        return None
    policy = rule.traffic_policy
    if subset:
        policy = next((s.traffic_policy for s in rule.subsets if s.name == subset), None)
    if policy is None:
        return None
    mode = policy.tls.mode if policy.tls else None
    for setting in policy.port_level_settings:
        if setting.port is not None and setting.port.number == port and setting.tls is not None:
            return setting.tls.mode
    return mode


def is_passthrough(policy: TrafficPolicy | None) -> bool:
    """Whether the caller's own address is to be used."""
    return (
        policy is not None
        and policy.load_balancer is not None
        and policy.load_balancer.simple is SimpleLB.PASSTHROUGH
    )
