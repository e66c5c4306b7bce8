"""Gateways: the Gateway resources that pick a proxy, put together into its listeners and route configurations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import OUTBOUND
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from testbed.compiler.accesslog import unrouted_log
from testbed.compiler.connections import Direction, HttpOptions, http_connections, tls_inspector
from testbed.compiler.downstreamtls import server_tls
from testbed.compiler.endpoints import socket_address
from testbed.compiler.layer4 import Layer4, TcpChain, applies, destination_filters
from testbed.compiler.memory import CompileCache
from testbed.compiler.names import is_subset, listener_name, matches
from testbed.compiler.outbound import filter_chain
from testbed.compiler.protobuf import ROUTES, Fragment, boolean, fragment, u32, with_elements
from testbed.compiler.routes import Caller, resource_metadata, routes
from testbed.compiler.scope import Scope
from testbed.compiler.services import UNSPECIFIED
from testbed.compiler.virtualhosts import MAX_DIRECT_RESPONSE, RuleOf, rendered, surroundings
from testbed.compiler.virtualservices import RoutedHosts, ranked
from testbed.model.topology import MeshWorkload, Protocol
from testbed.resources.gateway import Gateway, Server, ServerTLSMode
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.values import selects
from testbed.resources.virtual_service import L4MatchAttributes

_HTTP = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY")
_PASSTHROUGH = (ServerTLSMode.PASSTHROUGH, ServerTLSMode.AUTO_PASSTHROUGH)


@dataclass(frozen=True)
class BoundServer:
    """A server of a Gateway on a proxy."""

    server: Server
    gateway: str
    """``namespace/name``."""
    port: int
    """The port that the proxy listens on: the server's, or what the proxy's own service makes of it."""

    @property
    def is_http(self) -> bool:
        """Plaintext HTTP."""
        return self.server.port.protocol.upper() in _HTTP

    @property
    def is_plaintext(self) -> bool:
        """No TLS, neither terminated nor passed through."""
        return self.is_http or self.server.tls is None

    @property
    def is_https(self) -> bool:
        """HTTP in TLS that is terminated here."""
        tls = self.server.tls
        return self.server.port.protocol.upper() == "HTTPS" and tls is not None and tls.mode not in _PASSTHROUGH

    @property
    def bind(self) -> str:
        """The address that is listened on."""
        return self.server.bind or UNSPECIFIED

    @property
    def hosts(self) -> tuple[tuple[str, str], ...]:
        """``(namespace, host)``: whose routes may bind, ``*`` for everybody's."""
        own = self.gateway.partition("/")[0]
        out = []
        for entry in self.server.hosts:
            namespace, slash, host = entry.rpartition("/")
            out.append(((own if namespace == "." else namespace) if slash else "*", host.lower()))
        return tuple(out)

    @property
    def route_name(self) -> str:
        """The name of its route configuration, as Istio makes it; empty where connections are routed."""
        bind = f".{self.server.bind}" if self.server.bind else ""
        if self.is_http:
            return f"http.{self.port}{bind}"
        if self.is_https:
            namespace, _, name = self.gateway.partition("/")
            return f"https.{self.port}.{self.server.port.name}.{name}.{namespace}{bind}"
        return ""

    def shares(self, routed: RoutedHosts) -> tuple[str, ...]:
        """The hosts that it and a VirtualService have in common, the narrower name of each pair."""
        mine = [h for namespace, h in self.hosts if namespace in ("*", routed.namespace)]
        common: dict[str, None] = {}
        for theirs in routed.hosts:
            for host in mine:
                if is_subset(theirs, host):
                    common[theirs] = None
                elif is_subset(host, theirs):
                    common[host] = None
        return tuple(common)


def bound_servers(resources: ResourceSet, workload: MeshWorkload) -> tuple[BoundServer, ...]:
    """The servers of all Gateways for a proxy, in the order that counts.

    On one port of an address istiod (mergeGateways) lets plaintext HTTP servers share a listener, TLS servers by
    the names that they serve, and adds a plaintext server to TLS servers that were there before it, not the other
    way round.  What does not go together is left out, as is a server with ``tls`` for a host that another has.
    """
    found: list[BoundServer] = []
    for resource in resources.gateways:
        if not selects(resource.spec.selector, workload.labels):
            continue
        found += [_bound(resource, server, workload) for server in resource.spec.servers]
    kept: list[BoundServer] = []
    claimed: dict[tuple[int, str], set[tuple[str, str]]] = {}
    for server in found:
        if server.server.tls is not None:
            taken = claimed.setdefault((server.port, server.bind), set())
            if taken & set(server.hosts):
                continue
            taken |= set(server.hosts)
        plain = [o for o in kept if (o.port, o.bind) == (server.port, server.bind) and o.is_plaintext]
        if not plain or (plain[0].is_http and server.is_http):
            kept.append(server)
    return tuple(kept)


def _bound(resource: Resource[Gateway], server: Server, workload: MeshWorkload) -> BoundServer:
    number = server.port.number
    own = next((p.target for p in workload.ports if p.number == number), number)
    return BoundServer(server, f"{resource.namespace}/{resource.name}", own)


def virtual_services_for(gateway: str, routed: Sequence[RoutedHosts], namespace: str) -> list[RoutedHosts]:
    """The VirtualServices bound to a gateway that the proxy's namespace may see, those that count more first."""
    return ranked((v for v in routed if gateway in v.gateways and v.visible_from(namespace)), namespace)


@dataclass(frozen=True)
class GatewayView:
    """A gateway's proxy, and what it sees."""

    workload: MeshWorkload
    servers: tuple[BoundServer, ...]
    routed: tuple[RoutedHosts, ...]
    scope: Scope
    rule_of: RuleOf
    around: Layer4
    http_filters: Sequence[HttpFilter]

    def listeners(self) -> Iterator[Listener]:
        """One for each address and port, in order."""
        ports: dict[tuple[str, int], list[BoundServer]] = {}
        for server in self.servers:
            ports.setdefault((server.bind, server.port), []).append(server)
        for bind, port in sorted(ports):
            made = self._listener(bind, port, ports[bind, port])
            if made is not None:
                yield made

    def _listener(self, bind: str, port: int, servers: Sequence[BoundServer]) -> Listener | None:
        name = listener_name(bind, port)
        out = Listener(
            name=name,
            address=socket_address(bind, port),
            traffic_direction=OUTBOUND,
            listener_filters_timeout=None,
            access_log=[unrouted_log(log) for log in self.around.logs],
        )
        plain = [s for s in servers if s.is_http]
        if plain:
            out.filter_chains.append(self._http_chain(plain[0], name))
        taken: set[str] = set()
        for server in servers:
            if not server.is_http:
                out.filter_chains.extend(self._chains(server, name, taken))
        if not out.filter_chains:
            return None
        if not all(s.is_plaintext for s in servers):
            out.listener_filters.append(tls_inspector())
        return out

    def _http_chain(self, server: BoundServer, listener: str) -> FilterChain:
        prefix = server.server.name or f"outbound_{listener}"
        options = HttpOptions(
            Direction.GATEWAY,
            prefix,
            route_name=server.route_name,
            logs=self.around.logs,
            filters=self.http_filters,
            grpc_web=server.server.port.protocol.upper() == Protocol.GRPC_WEB,
        )
        return FilterChain(filters=[http_connections(options)])

    def _chains(self, server: BoundServer, listener: str, taken: set[str]) -> Iterator[FilterChain]:
        tls = server.server.tls
        if server.is_https and tls is not None:
            chain = self._http_chain(server, listener)
            chain.filter_chain_match.server_names.extend(_server_names(server))
            chain.transport_socket.CopyFrom(server_tls(tls))
            yield chain
        elif tls is not None and tls.mode in _PASSTHROUGH:
            yield from map(filter_chain, self._passed_through(server, taken))
        elif (opened := self._opened(server)) is not None:
            if tls is not None:
                opened.server_names = _server_names(server)
                chain = filter_chain(opened)
                chain.transport_socket.CopyFrom(server_tls(tls))
                yield chain
            else:
                yield filter_chain(opened)

    def _opened(self, server: BoundServer) -> TcpChain | None:
        """Plain connections (or such as TLS was taken off of): the first TCP rule that fits."""
        caller = self._caller(server)
        for routed in virtual_services_for(server.gateway, self.routed, self.workload.namespace):
            if not self._bound_hosts(server, routed):
                continue
            for index, rule in enumerate(routed.tcp):
                if not rule.match or any(_fits(m, routed, caller, server) for m in rule.match):
                    filters = destination_filters(rule.route, routed, server.server.port.number, self.around)
                    return TcpChain(filters, metadata=_metadata(routed, index, "tcp"))
        return None

    def _passed_through(self, server: BoundServer, taken: set[str]) -> Iterator[TcpChain]:
        """TLS connections by the name that is asked for; a name that is taken is left out."""
        caller = self._caller(server)
        for routed in virtual_services_for(server.gateway, self.routed, self.workload.namespace):
            if not self._bound_hosts(server, routed):
                continue
            for index, rule in enumerate(routed.tls):
                for match in rule.match:
                    plain = L4MatchAttributes(port=match.port, gateways=match.gateways)
                    if not _fits(plain, routed, caller, server) or taken & set(match.sni_hosts):
                        continue
                    taken |= set(match.sni_hosts)
                    names = tuple(h for h in match.sni_hosts if h != "*")
                    filters = destination_filters(rule.route, routed, server.server.port.number, self.around)
                    yield TcpChain(filters, names, metadata=_metadata(routed, index, "tls"))

    @staticmethod
    def _bound_hosts(server: BoundServer, routed: RoutedHosts) -> bool:
        own = [h for namespace, h in server.hosts if namespace in ("*", routed.namespace)]
        return any(matches(h, theirs) for h in own for theirs in routed.hosts)

    def _caller(self, server: BoundServer) -> Caller:
        return Caller(
            self.workload.namespace,
            self.workload.labels,
            frozenset({server.gateway}),
            server.server.port.number,
            server.server.tls is not None,
        )

    def route_configurations(self, cache: CompileCache) -> Iterator[Fragment]:
        """One for each port of plaintext HTTP, one for each HTTPS server."""
        names: dict[str, list[BoundServer]] = {}
        for server in self.servers:
            if server.route_name:
                names.setdefault(server.route_name, []).append(server)
        for name in sorted(names):
            yield self._routes(name, names[name], cache)

    def _routes(self, name: str, servers: Sequence[BoundServer], cache: CompileCache) -> Fragment:
        hosts: dict[str, list[Fragment]] = {}
        redirected: set[str] = set()
        # of several servers of a Gateway the first that a VirtualService is bound to decides what its rules see
        seen_from: dict[tuple[str, str, str], BoundServer] = {}
        for server in servers:
            to_tls = server.server.tls is not None and server.server.tls.https_redirect
            for routed in virtual_services_for(server.gateway, self.routed, self.workload.namespace):
                shared = server.shares(routed)
                if not shared:
                    continue
                first = seen_from.setdefault((server.gateway, routed.namespace, routed.name), server)
                built = self._of_routes(routed, first, cache)
                for host in shared if built else ():
                    hosts.setdefault(host, []).extend(built)
                    if to_tls:
                        redirected.add(host)
            if to_tls:
                # istiod leaves the namespace in: a host written with one is not redirected (and answered with 404)
                for host in (h.lower() for h in server.server.hosts):
                    hosts.setdefault(host, [])
                    redirected.add(host)
        outer = RouteConfiguration(
            name=name,
            validate_clusters=boolean(False),
            max_direct_response_body_size_bytes=u32(MAX_DIRECT_RESPONSE),
            ignore_port_in_host_matching=True,
        )
        port = servers[0].server.port.number
        if not hosts:
            # nothing is bound: every request is answered with 404
            hosts["*"] = []
            named = {"*": f"blackhole:{port}"}
        else:
            named = {h: f"{h}:{port}" for h in hosts}
        ordered = sorted(hosts, key=named.__getitem__)
        made = [_virtual_host(named[h], h, _catch_alls_last(hosts[h]), h in redirected, cache) for h in ordered]
        return with_elements(fragment(name, outer, ROUTES), "virtual_hosts", made)

    def _of_routes(self, routed: RoutedHosts, server: BoundServer, cache: CompileCache) -> tuple[Fragment, ...]:
        around, depends = surroundings(routed, self.scope.by_host, self.scope.by_host, self.rule_of)
        tls = server.server.tls is not None
        port = server.server.port.number
        labels = tuple(sorted(self.workload.labels.items())) if routed.source_labels else ()
        key = "gateway-routes", routed.digest, server.gateway, port, tls, labels, self.workload.namespace, depends
        caller = self._caller(server)
        return cache.get(key, lambda: rendered(routes(routed, caller, around)))


def _fits(match: L4MatchAttributes, routed: RoutedHosts, caller: Caller, server: BoundServer) -> bool:
    """On gateways istiod looks at port and gateway only."""
    plain = L4MatchAttributes(port=match.port, gateways=match.gateways)
    return applies(plain, routed.namespace, caller)


def _metadata(routed: RoutedHosts, index: int, kind: str):  # type: ignore[no-untyped-def]
    return resource_metadata(
        "networking.istio.io", "virtual-service", routed.namespace, routed.name, rule=index, protocol=kind
    )


def _server_names(server: BoundServer) -> tuple[str, ...]:
    """Names for the match on SNI; ``*`` means any, which Envoy writes as none."""
    names = tuple(dict.fromkeys(h for _, h in server.hosts))
    return () if "*" in names else names


def _catch_alls_last(built: Sequence[Fragment]) -> list[Fragment]:
    """Routes of several VirtualServices for a host: those that match everything come after all others."""
    return sorted(built, key=lambda r: _CATCH_ALL.search(r.content) is not None)


_CATCH_ALL = re.compile(
    rb'"match":\{(?:"case_sensitive":(?:true|false),)?'
    rb'(?:"(?:prefix|path_separated_prefix)":"/"|"safe_regex":\{"regex":"\.\*"\})\}'
)
"""A rendered matcher of everything (see :func:`testbed.compiler.matches.is_catch_all`)."""


def _virtual_host(name: str, domain: str, built: Sequence[Fragment], to_tls: bool, cache: CompileCache) -> Fragment:
    def build() -> Fragment:
        outer = VirtualHost(name=name, domains=[domain], include_request_attempt_count=True)
        if to_tls:
            outer.require_tls = VirtualHost.ALL
        return with_elements(fragment(name, outer), "routes", built)

    return cache.get(("gateway-host", name, domain, to_tls, *(r.digest for r in built)), build)
