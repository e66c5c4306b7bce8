"""The route configuration that sidecars of a scope read for a port: a virtual host for each host called on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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

MAX_DIRECT_RESPONSE = 1024 * 1024
"""Bytes that a direct response may have; Envoy's own limit is 4 KiB."""

RuleOf = Callable[[Service], MergedRule | None]


@dataclass(frozen=True)
class _Served:
    """Hosts that share routes: those of no service, and services."""

    hosts: tuple[str, ...]
    services: tuple[Service, ...]
    routes: tuple[Fragment, ...]


def route_configuration(
    scope: Scope,
    port: int,
    source: tuple[tuple[str, str], ...],
    rule_of: RuleOf,
    cache: CompileCache,
    *,
    proxy: bool = False,
) -> Fragment:
    """The configuration named after the port.  ``source``: the caller's labels that conditions ask for.

    A forward ``proxy`` is asked for hosts with their ports, so it has the virtual hosts of every port.
    """
    egress = scope.egress_for(port)
    called = [port]
    if proxy and egress is not None:
        called = sorted({p.number for s in egress.services for p in s.ports if p.protocol.is_http})
    hosts = [
        host
        for number in called
        for host in (_virtual_hosts(scope, egress, number, source, rule_of, cache, proxy=proxy) if egress else ())
    ]
    hosts.sort(key=lambda h: h.name)
    outer = RouteConfiguration(
        name=str(port),
        validate_clusters=boolean(False),
        max_direct_response_body_size_bytes=u32(MAX_DIRECT_RESPONSE),
        ignore_port_in_host_matching=not proxy,
    )
    key = "catch-all", scope.allow_any, repr(scope.egress_proxy)
    hosts.append(cache.get(key, lambda: fragment("catch-all", _catch_all(scope))))
    return with_elements(fragment(str(port), outer, ROUTES), "virtual_hosts", hosts)


def _virtual_hosts(
    scope: Scope,
    egress: Egress,
    port: int,
    source: tuple[tuple[str, str], ...],
    rule_of: RuleOf,
    cache: CompileCache,
    *,
    proxy: bool,
) -> list[Fragment]:
    here = {s.host: s for s in egress.services if s.port(port) is not None}
    served = [s for v in _relevant(egress, here, port) if (s := _of_routes(v, scope, egress, here, port, source, rule_of, cache))]  # fmt: skip  # noqa: E501
    spoken_for = {s.host for one in served for s in one.services}
    for host, service in here.items():
        number = service.port(port)
        if host not in spoken_for and number is not None and number.protocol.is_http:
            rule = rule_of(service)
            key = "default-route", host, port, rule.digest if rule else ""

            def build(service: Service = service, rule: MergedRule | None = rule) -> tuple[Fragment, ...]:
                hashing = hash_of_port(rule.spec if rule else None, port)
                return (fragment("", default_route(outbound_cluster(service.host, port), hashing)),)

            served.append(_Served((), (service,), cache.get(key, build)))
    return list(_named(served, scope.namespace, port, cache, proxy=proxy))


def _relevant(egress: Egress, here: Mapping[str, Service], port: int) -> Iterable[RoutedHosts]:
    """VirtualServices for hosts of the port.  On port 80 istiod takes all: hosts of no service live there."""
    if port == 80:
        return egress.virtual_services
    wild = [h for h in here if is_wildcard(h)]
    found = []
    for routed in egress.virtual_services:
        for host in routed.hosts:
            others = here if is_wildcard(host) else wild
            if host in here or any(matches(host, other) for other in others):
                found.append(routed)
                break
    return found


def _of_routes(
    routed: RoutedHosts,
    scope: Scope,
    egress: Egress,
    here: Mapping[str, Service],
    port: int,
    source: tuple[tuple[str, str], ...],
    rule_of: RuleOf,
    cache: CompileCache,
) -> _Served | None:
    labels = tuple((k, v) for k, v in source if k in routed.source_labels)
    around, depends = surroundings(routed, here, rule_of)
    namespace = scope.namespace if routed.asks_namespace else ""
    key = "routes", routed.digest, port, labels, namespace, depends

    def build() -> tuple[Fragment, ...]:
        caller = Caller(scope.namespace, dict(labels), frozenset({"mesh"}), port)
        return rendered(routes(routed, caller, around))

    found = cache.get(key, build)
    if not found:
        return None
    hosts, services = _separate(routed, egress, here)
    if routed.gateway_semantics:
        # a route of the Gateway API is for callers of its own namespace, or for services of it
        services = [s for s in services if routed.namespace in (s.namespace, scope.namespace)]
        if not services:
            return None
    http = tuple(s for s in services if any(p.number == port and p.protocol.is_http for p in s.ports))
    # without a service on it, a host is only known on port 80 (istiod's own "gross hack")
    return _Served(hosts, http, found) if http or port == 80 else None


def rendered(built: Iterable[Route]) -> tuple[Fragment, ...]:
    """Routes as fragments, in order."""
    return tuple(fragment(r.name, r) for r in built)


def surroundings(
    routed: RoutedHosts, known: Mapping[str, Service], rule_of: RuleOf
) -> tuple[Surroundings, tuple[str, ...]]:
    """How the VirtualService's destinations are looked up, and digests of all that the answers depend on."""
    services = {h: known[h] for h in routed.destinations if h in known}
    rules = {h: rule for h, s in services.items() if (rule := rule_of(s)) is not None}
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


def _named(
    served: Iterable[_Served], namespace: str, port: int, cache: CompileCache, *, proxy: bool
) -> Iterable[Fragment]:
    """Virtual hosts; a name or domain that is taken is left out: the first counts."""
    served = list(served)
    in_full = {s.host for one in served for s in one.services}
    names: set[str] = set()
    taken: set[str] = set()
    for one in served:
        for host in one.hosts:
            answered = _with_port([host], port) if proxy else [host]
            yield from _named_host(host, answered, one, port, in_full, names, taken, cache)
        for service in one.services:
            answered = domains(service.host, service.addresses, namespace)
            if proxy:
                answered = _with_port(answered, port)
            yield from _named_host(service.host, answered, one, port, in_full, names, taken, cache)


def _with_port(hosts: list[str], port: int) -> list[str]:
    return [*(hosts if port == 80 else ()), *(f"{h}:{port}" for h in hosts)]


def _named_host(
    host: str,
    answered: list[str],
    one: _Served,
    port: int,
    in_full: set[str],
    names: set[str],
    taken: set[str],
    cache: CompileCache,
) -> Iterable[Fragment]:
    name = f"{host}:{port}"
    free = [d for d in dict.fromkeys(answered) if d not in taken and (d == host or d not in in_full)]
    if name in names or not free:
        return
    names.add(name)
    taken.update(free)
    digests = tuple(r.digest for r in one.routes)

    def build() -> Fragment:
        outer = VirtualHost(name=name, domains=free, include_request_attempt_count=True)
        return with_elements(fragment(name, outer), "routes", one.routes)

    yield cache.get(("virtual-host", name, tuple(free), digests), build)


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
