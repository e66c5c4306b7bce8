"""The route configuration that sidecars of a scope read for a port: a virtual host for each host called on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from testbed.compiler.destinationrules import MergedRule
from testbed.compiler.hashing import hash_of_destination, hash_of_port
from testbed.compiler.memory import CompileCache
from testbed.compiler.names import PASSTHROUGH, domains, is_wildcard, matches, outbound_cluster
from testbed.compiler.protobuf import ROUTES, Fragment, boolean, duration, fragment, u32, with_elements
from testbed.compiler.routes import Caller, Surroundings, default_route, destination_cluster, routes
from testbed.compiler.scope import Egress, Scope
from testbed.compiler.services import Service
from testbed.compiler.virtualservices import RoutedHosts
from testbed.model.proxy import content_hash

MAX_DIRECT_RESPONSE = 1024 * 1024
"""Bytes that a direct response may have; Envoy's own limit is 4 KiB."""

RuleOf = Callable[[Service], MergedRule | None]


@dataclass(frozen=True)
class Calls:
    """Who calls, and through which port: all that virtual hosts depend on beside the VirtualServices."""

    scope: Scope
    egress: Egress
    port: int
    source: tuple[tuple[str, str], ...]
    """The caller's labels that conditions ask for."""
    rule_of: RuleOf
    rules_key: Hashable
    """Stands for all that ``rule_of`` may answer."""
    proxy: bool = False
    """A forward proxy is asked for hosts with their ports."""

    @cached_property
    def here(self) -> dict[str, Service]:
        """The services that have the port, by host."""
        return {s.host: s for s in self.egress.services if s.port(self.port) is not None}

    @cached_property
    def key(self) -> tuple[Hashable, ...]:
        """Stands for the caller."""
        return self.port, self.scope.namespace, self.egress.services_digest, self.rules_key, self.proxy


@dataclass(frozen=True)
class _Served:
    """Hosts that share routes: those of no service, and services."""

    hosts: tuple[str, ...]
    services: tuple[Service, ...]
    routes: tuple[Fragment, ...]
    shape: str
    """Stands for hosts and services."""
    digest: str
    """Stands for the routes."""

    @classmethod
    def of(cls, hosts: tuple[str, ...], services: tuple[Service, ...], routes: tuple[Fragment, ...]) -> _Served:
        """Put them together."""
        shape = content_hash(*hosts, "", *(s.digest for s in services))
        return cls(hosts, services, routes, shape, content_hash(*(r.digest for r in routes)))


def route_configuration(
    scope: Scope,
    port: int,
    source: tuple[tuple[str, str], ...],
    rule_of: RuleOf,
    rules_key: Hashable,
    cache: CompileCache,
    *,
    proxy: bool = False,
    only: str = "",
) -> Fragment:
    """The configuration named after the port; a forward ``proxy`` has the virtual hosts of every port.

    ``only``: of one host, whatever host is asked for: where a listener is that host's alone.
    """
    egress = scope.egress_for(port)
    hosts: list[Fragment] = []
    if egress is not None:
        called = [port]
        if proxy:
            called = sorted({p.number for s in egress.services for p in s.ports if p.protocol.may_be_http})
        for number in called:
            calls = Calls(scope, egress, number, source, rule_of, rules_key, proxy)
            hosts += _virtual_hosts(calls, cache, only)
    hosts.sort(key=lambda h: h.name)
    name = f"{only}:{port}" if only else str(port)
    outer = RouteConfiguration(
        name=name,
        validate_clusters=boolean(False),
        max_direct_response_body_size_bytes=u32(MAX_DIRECT_RESPONSE),
        ignore_port_in_host_matching=not proxy,
    )
    if not only:
        key = "catch-all", scope.allow_any, repr(scope.egress_proxy)
        hosts.append(cache.get(key, lambda: fragment("catch-all", _catch_all(scope))))
    return with_elements(fragment(name, outer, ROUTES), "virtual_hosts", hosts)


def _virtual_hosts(calls: Calls, cache: CompileCache, only: str) -> list[Fragment]:
    served = [one for v in _relevant(calls) if (one := _of_routes(v, calls, cache)) is not None]
    spoken_for = {s.host for one in served for s in one.services}
    for host, service in calls.here.items():
        number = service.port(calls.port)
        if host not in spoken_for and number is not None and number.protocol.may_be_http:
            served.append(_by_default(service, calls, cache))
    names = cache.get(("names", calls.key, tuple(s.shape for s in served)), lambda: tuple(_names(served, calls)))
    found = []
    if only:
        names = tuple((index, name, ("*",)) for index, name, _ in names if name == f"{only}:{calls.port}")
    for index, name, answered in names:
        one = served[index]
        key = "virtual-host", name, answered, one.digest
        found.append(cache.get(key, lambda n=name, d=answered, o=one: _virtual_host(n, d, o)))  # type: ignore[misc]
    return found


def _virtual_host(name: str, answered: tuple[str, ...], one: _Served) -> Fragment:
    outer = VirtualHost(name=name, domains=answered, include_request_attempt_count=True)
    return with_elements(fragment(name, outer), "routes", one.routes)


def _by_default(service: Service, calls: Calls, cache: CompileCache) -> _Served:
    """A service that no VirtualService speaks of."""
    rule = calls.rule_of(service)

    def build() -> _Served:
        hashing = hash_of_port(rule.spec if rule else None, calls.port)
        route = default_route(outbound_cluster(service.host, calls.port), hashing)
        return _Served.of((), (service,), rendered([route]))

    return cache.get(("default-route", service.digest, calls.port, rule.digest if rule else ""), build)


def _relevant(calls: Calls) -> Iterable[RoutedHosts]:
    """VirtualServices for hosts of the port.  On port 80 istiod takes all: hosts of no service live there."""
    if calls.port == 80:
        return calls.egress.virtual_services
    here = calls.here
    wild = [h for h in here if is_wildcard(h)]
    found = []
    for routed in calls.egress.virtual_services:
        for host in routed.hosts:
            others = here if is_wildcard(host) else wild
            if host in here or any(matches(host, other) for other in others):
                found.append(routed)
                break
    return found


def _of_routes(routed: RoutedHosts, calls: Calls, cache: CompileCache) -> _Served | None:
    labels = tuple((k, v) for k, v in calls.source if k in routed.source_labels)
    if routed.wildcards:  # what a wildcard covers depends on the other VirtualServices
        return _build(routed, calls, labels, cache)
    return cache.get(("served", routed.digest, labels, calls.key), lambda: _build(routed, calls, labels, cache))


def _build(
    routed: RoutedHosts, calls: Calls, labels: tuple[tuple[str, str], ...], cache: CompileCache
) -> _Served | None:
    around, depends = surroundings(routed, calls.here, calls.scope.by_host, calls.rule_of)
    namespace, port = calls.scope.namespace, calls.port
    key = "routes", routed.digest, port, labels, namespace if routed.asks_namespace else "", depends

    def build() -> tuple[Fragment, ...]:
        caller = Caller(namespace, dict(labels), frozenset({"mesh"}), port)
        return rendered(routes(routed, caller, around))

    found = cache.get(key, build)
    if not found:
        return None
    hosts, services = _separate(routed, calls.egress, calls.here)
    if routed.gateway_semantics:
        # a route of the Gateway API is for callers of its own namespace, or for services of it
        services = [s for s in services if routed.namespace in (s.namespace, namespace)]
        if not services:
            return None
    http = tuple(s for s in services if any(p.number == port and p.protocol.may_be_http for p in s.ports))
    # without a service on it, a host is only known on port 80 (istiod's own "gross hack")
    return _Served.of(hosts, http, found) if http or port == 80 else None


def rendered(built: Iterable[Route]) -> tuple[Fragment, ...]:
    """Routes as fragments, in order."""
    return tuple(fragment(r.name, r) for r in built)


def surroundings(
    routed: RoutedHosts, here: Mapping[str, Service], known: Mapping[str, Service], rule_of: RuleOf
) -> tuple[Surroundings, tuple[str, ...]]:
    """How the VirtualService's destinations are looked up, and digests of all that the answers depend on.

    Ports are looked up among the services ``here``, hashing among all that are ``known``.
    """
    services = {h: here[h] for h in routed.destinations if h in here}
    rules = {h: rule for h in routed.destinations if h in known and (rule := rule_of(known[h])) is not None}
    depends = (*(s.digest for s in services.values()), *(r.digest for r in rules.values()))
    around = Surroundings(
        services.get, lambda host, d: hash_of_destination(rules[host].spec if host in rules else None, d)
    )
    return around, depends


def _separate(
    routed: RoutedHosts, egress: Egress, here: Mapping[str, Service]
) -> tuple[tuple[str, ...], list[Service]]:
    """The VirtualService's hosts: those of no service, and the services (each under its most specific wildcard)."""
    hosts: list[str] = []
    services: dict[str, Service] = {}
    for host in routed.hosts:
        if not is_wildcard(host):
            if host in here:
                services.setdefault(host, here[host])
            else:
                hosts.append(host)
            continue
        if routed.gateway_semantics:
            hosts.append(host)
            continue
        covered = [h for h in here if matches(host, h)]
        for other in covered:
            if egress.most_specific.get(other) is routed:
                services.setdefault(other, here[other])
        if not covered:
            hosts.append(host)
    return tuple(hosts), list(services.values())


def _names(served: Sequence[_Served], calls: Calls) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Names and domains of virtual hosts, and whose routes they have; of two equal ones the first counts."""
    in_full = {s.host for one in served for s in one.services}
    names: set[str] = set()
    taken: set[str] = set()
    for index, one in enumerate(served):
        called = [(h, [h]) for h in one.hosts]
        called += [(s.host, domains(s.host, s.addresses, calls.scope.namespace)) for s in one.services]
        for host, answered in called:
            # a short form may be another service's full name: that one has it
            mine = [d for d in answered if d == host or d not in in_full]
            if calls.proxy:
                mine = [*(mine if calls.port == 80 else ()), *(f"{d}:{calls.port}" for d in mine)]
            free = tuple(d for d in dict.fromkeys(mine) if d not in taken)
            name = f"{host}:{calls.port}"
            if name not in names and free:
                names.add(name)
                taken.update(free)
                yield index, name, free


def _catch_all(scope: Scope) -> VirtualHost:
    """Hosts that nobody knows: passed through, or answered with 502 where only known ones may be called."""
    if not scope.allow_any:
        route = Route(name="block_all")
        route.match.prefix = "/"
        route.direct_response.status = 502
        return VirtualHost(name="block_all", domains=["*"], routes=[route], include_request_attempt_count=True)
    cluster = PASSTHROUGH
    if scope.egress_proxy is not None:
        cluster = destination_cluster(scope.egress_proxy, scope.egress_proxy.host, None, 0)
    route = Route(name="allow_any")
    route.match.prefix = "/"
    route.route.cluster = cluster
    route.route.timeout.CopyFrom(duration(0))
    route.route.max_grpc_timeout.CopyFrom(duration(0))
    return VirtualHost(name="allow_any", domains=["*"], routes=[route], include_request_attempt_count=True)
