"""TCP and TLS routes: connections to destinations, by address, port and server name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.listener.v3.listener_components_pb2 import Filter

from testbed.compiler.connections import tcp_proxy
from testbed.compiler.destinationrules import MergedRule
from testbed.compiler.names import outbound_cluster, qualified, qualified_gateway
from testbed.compiler.routes import Caller, destination_cluster, resource_metadata
from testbed.compiler.services import UNSPECIFIED, Service
from testbed.compiler.virtualservices import RoutedHosts
from testbed.model.topology import Protocol, ServicePort
from testbed.resources.destination_rule import DestinationRule
from testbed.resources.values import selects
from testbed.resources.virtual_service import L4MatchAttributes, RouteDestination, TLSMatchAttributes


@dataclass(frozen=True)
class Layer4:
    """How names in routes are looked up, and what every proxy logs."""

    service: Callable[[str], Service | None]
    rule_of: Callable[[Service], MergedRule | None]
    logs: Sequence[AccessLog]
    filters: Sequence[Filter] = ()
    """Security's, on gateways; they come first."""


@dataclass
class TcpChain:
    """A filter chain of a TCP listener."""

    filters: list[Filter]
    server_names: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    metadata: Metadata | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def matches_all(self) -> bool:
        """Whether it takes every connection of its listener."""
        return not self.server_names and not self.subnets


def is_tls(protocol: Protocol) -> bool:
    """Whether the port's TLS is the application's own, passed through by server name."""
    return protocol in (Protocol.TLS, Protocol.HTTPS)


def applies(match: L4MatchAttributes | TLSMatchAttributes, namespace: str, caller: Caller) -> bool:
    """The part of a condition that is decided here.  (``sourceSubnet`` istiod has never looked at.)"""
    gateways = [qualified_gateway(g, namespace) for g in match.gateways]
    return (
        (not gateways or any(g in caller.gateways for g in gateways))
        and selects(match.source_labels, caller.labels)
        and match.port in (0, caller.port)
        and match.source_namespace in ("", caller.namespace)
    )


def destination_filters(
    routes: Sequence[RouteDestination], owner: RoutedHosts, port: int, around: Layer4
) -> list[Filter]:
    """The filters that carry connections to a route's destinations.

    Pool settings (idle timeout, longest life) are those of the first destination's DestinationRule.
    """
    hosts = [qualified(r.destination.host, owner.namespace) for r in routes]
    first = around.service(hosts[0])
    rule = around.rule_of(first) if first is not None else None
    clusters = [
        (destination_cluster(r.destination, host, around.service(host), port), r.weight)
        for r, host in zip(routes, hosts, strict=True)
    ]
    if len(clusters) == 1:
        return single_filters(clusters[0][0], rule.spec if rule else None, around, routes[0].destination.subset)
    weighted = [(name, weight) for name, weight in clusters if weight > 0]
    return _filters(f"{owner.name}.{owner.namespace}", weighted, rule.spec if rule else None, "", around)


def single_filters(cluster: str, rule: DestinationRule | None, around: Layer4, subset: str = "") -> list[Filter]:
    """The filters that carry connections to one cluster."""
    return _filters(cluster, [(cluster, 1)], rule, subset, around)


def _filters(
    prefix: str, clusters: Iterable[tuple[str, int]], rule: DestinationRule | None, subset: str, around: Layer4
) -> list[Filter]:
    policy = rule.traffic_policy if rule else None
    tcp = policy.connection_pool.tcp if policy and policy.connection_pool else None
    proxy = tcp_proxy(
        prefix,
        clusters,
        around.logs,
        idle=tcp.idle_timeout if tcp else None,
        longest=tcp.max_connection_duration if tcp else None,
        by_source=_by_source(rule, subset),
    )
    return [*around.filters, proxy]


def _by_source(rule: DestinationRule | None, subset: str) -> bool:
    """Of all hashing, TCP knows that of the source address."""
    if rule is None:
        return False
    policy = rule.traffic_policy
    chosen = next((s.traffic_policy for s in rule.subsets if s.name == subset), None)
    if chosen is not None and chosen.load_balancer is not None:
        policy = chosen
    balancer = policy.load_balancer if policy else None
    return bool(balancer and balancer.consistent_hash and balancer.consistent_hash.use_source_ip)


def service_chains(
    service: Service, port: ServicePort, owners: Sequence[RoutedHosts], caller: Caller, around: Layer4
) -> list[TcpChain]:
    """The chains for a service's port in a sidecar: by VirtualServices for its host, else to the service."""
    subnets = tuple(a for a in service.addresses if "/" in a)
    if is_tls(port.protocol):
        found = _tls_chains(owners, subnets, caller, around)
        return found or [_to_service(service, port, subnets, around, server_name=_needs_name(service, subnets))]
    found, complete = _tcp_chains(owners, subnets, caller, around)
    if not complete:
        found.append(_to_service(service, port, subnets, around, server_name=False))
    return found


def _needs_name(service: Service, subnets: tuple[str, ...]) -> bool:
    """A service without an address of its own shares its listener with others: only the name tells them apart."""
    return bool(subnets) or service.address == UNSPECIFIED


def _to_service(
    service: Service, port: ServicePort, subnets: tuple[str, ...], around: Layer4, *, server_name: bool
) -> TcpChain:
    rule = around.rule_of(service)
    cluster = outbound_cluster(service.host, port.number)
    names = (service.host,) if server_name and service.host != "*" else ()
    return TcpChain(single_filters(cluster, rule.spec if rule else None, around), names, subnets)


def _owner_metadata(owner: RoutedHosts, kind: str, index: int) -> Metadata:
    return resource_metadata(
        "networking.istio.io", "virtual-service", owner.namespace, owner.name, rule=index, protocol=kind
    )


def _tls_chains(
    owners: Sequence[RoutedHosts], subnets: tuple[str, ...], caller: Caller, around: Layer4
) -> list[TcpChain]:
    found: list[TcpChain] = []
    seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for owner in owners:
        for index, route in enumerate(owner.tls):
            for match in route.match:
                if not applies(match, owner.namespace, caller):
                    continue
                key = match.sni_hosts, match.destination_subnets
                if key in seen:
                    continue  # the first of equal conditions decides, and Envoy takes none twice
                seen.add(key)
                # istiod lets a condition's subnets hold for those after it that name none (tls.go assigns to its
                # parameter)
                subnets = match.destination_subnets or subnets
                filters = destination_filters(route.route, owner, caller.port, around)
                found.append(
                    TcpChain(
                        filters,
                        tuple("" if h == "*" else h for h in match.sni_hosts if h != "*"),
                        subnets,
                        _owner_metadata(owner, "tls", index),
                    )
                )
    return found


def _tcp_chains(
    owners: Sequence[RoutedHosts], subnets: tuple[str, ...], caller: Caller, around: Layer4
) -> tuple[list[TcpChain], bool]:
    """Chains, and whether one of them takes whatever is left."""
    found: list[TcpChain] = []
    for owner in owners:
        for index, route in enumerate(owner.tcp):
            fitting = [m for m in route.match if applies(m, owner.namespace, caller)]
            if route.match and not fitting:
                continue
            filters = destination_filters(route.route, owner, caller.port, around)
            metadata = _owner_metadata(owner, "tcp", index)
            if not route.match or any(not m.destination_subnets for m in fitting):
                found.append(TcpChain(filters, (), subnets, metadata))
                return found, True
            narrow = tuple(s for m in fitting for s in m.destination_subnets)
            found.append(TcpChain(filters, (), narrow, metadata))
            if sorted(narrow) == sorted(subnets):
                return found, True
    return found, False
