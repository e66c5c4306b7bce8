"""What a sidecar takes in: filter chains for each port that the workload listens on, and for all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.base_pb2 import INBOUND, TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import (
    Filter,
    FilterChain,
    FilterChainMatch,
    ListenerFilter,
    ListenerFilterChainMatchPredicate,
)
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from testbed.compiler.accesslog import unrouted_log
from testbed.compiler.connections import (
    Direction,
    HttpOptions,
    http_connections,
    http_inspector,
    original_destination,
    tcp_proxy,
    tls_inspector,
)
from testbed.compiler.endpoints import socket_address
from testbed.compiler.names import BLACKHOLE, INBOUND_PASSTHROUGH, inbound_cluster, listener_name
from testbed.compiler.protobuf import boolean, duration, u32
from testbed.compiler.security import PeerMode, PeerModes
from testbed.compiler.services import UNSPECIFIED
from testbed.compiler.upstreamtls import MESH_ALPNS
from testbed.model.topology import Protocol

INBOUND_PORT = 15006
VIRTUAL_INBOUND = "virtualInbound"
_TLS, _RAW = "tls", "raw_buffer"
_MESH_HTTP = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
_MESH_TCP = ("istio-peer-exchange", "istio")
PLAIN_HTTP = ("http/1.1", "h2c")
"""What plaintext is taken for HTTP; HTTP/1.0 goes on as TCP, as long as istiod's PILOT_HTTP10 is off."""


@dataclass(frozen=True)
class InboundPort:
    """A port that the workload listens on."""

    number: int
    protocol: Protocol
    bind: str = ""
    """An address that the proxy listens on itself (Sidecar ingress without redirect)."""
    own_tls: TransportSocket | None = None
    """TLS of a Sidecar's ingress listener; only where mutual TLS is off."""


@dataclass(frozen=True)
class Chains:
    """What all chains of a workload have in common."""

    mesh_tls: TransportSocket
    http_filters: Sequence[HttpFilter]
    network_filters: Sequence[Filter]
    logs: Sequence[AccessLog]


@dataclass(frozen=True)
class _Kind:
    """One way in which a connection can come in."""

    http: bool
    transport: str
    terminates: bool = False
    alpn: tuple[str, ...] = ()


_STRICT_AUTO = (_Kind(True, _TLS, True, _MESH_HTTP), _Kind(False, _TLS, True))
_PLAIN_AUTO = (_Kind(True, _RAW, alpn=PLAIN_HTTP), _Kind(False, _RAW))
_KINDS: dict[tuple[PeerMode, bool | None], tuple[_Kind, ...]] = {
    (PeerMode.STRICT, True): (_Kind(True, _TLS, True),),
    (PeerMode.STRICT, False): (_Kind(False, _TLS, True),),
    (PeerMode.STRICT, None): _STRICT_AUTO,
    # mesh TLS is known by its ALPN; other TLS on a TCP port is the application's own and goes on to it
    (PeerMode.PERMISSIVE, True): (_Kind(True, _TLS, True, MESH_ALPNS), _Kind(True, _RAW)),
    (PeerMode.PERMISSIVE, False): (
        _Kind(False, _TLS, True, MESH_ALPNS),
        _Kind(False, _TLS),
        _Kind(False, _RAW),
    ),
    (PeerMode.PERMISSIVE, None): (
        _Kind(True, _TLS, True, _MESH_HTTP),
        _Kind(True, _RAW, alpn=PLAIN_HTTP),
        _Kind(False, _TLS, True, _MESH_TCP),
        _Kind(False, _RAW),
        _Kind(False, _TLS),
    ),
    (PeerMode.DISABLE, True): (_Kind(True, _RAW),),
    (PeerMode.DISABLE, False): (_Kind(False, _RAW),),
    (PeerMode.DISABLE, None): _PLAIN_AUTO,
}
"""By mode and by whether the port is HTTP, TCP, or unknown (``None``): istiod's filterchain_options.go.

One difference: for TCP ports in DISABLE mode istiod takes raw_buffer only, which its listener filters make
match TLS too where no inspector runs on the port; the same holds here (see ``_inspectors``).
"""


def virtual_inbound(ports: Sequence[InboundPort], modes: PeerModes, chains: Chains) -> Listener:
    """The listener that all redirected inbound connections come to."""
    listener = Listener(
        name=VIRTUAL_INBOUND,
        address=socket_address(UNSPECIFIED, INBOUND_PORT),
        traffic_direction=INBOUND,
        continue_on_listener_filters_timeout=True,
        listener_filters_timeout=duration(0),
        access_log=[unrouted_log(log) for log in chains.logs],
    )
    listener.filter_chains.append(_blackhole())
    declared = {p.number for p in ports}
    for number in (0, *sorted(p for p in modes.ports if p not in declared)):
        listener.filter_chains.extend(_passthrough(number, modes.of(number), chains))
    for port in ports:
        if not port.bind:
            listener.filter_chains.extend(port_chains(port, modes, chains))
    listener.listener_filters.append(original_destination())
    listener.listener_filters.extend(_inspectors(listener.filter_chains))
    return listener


def bound_listener(port: InboundPort, modes: PeerModes, chains: Chains) -> Listener:
    """A port that the proxy listens on itself, as a Sidecar's ingress with ``captureMode: NONE`` asks."""
    listener = Listener(
        name=listener_name(port.bind, port.number),
        address=socket_address(port.bind, port.number),
        traffic_direction=INBOUND,
        continue_on_listener_filters_timeout=True,
        filter_chains=port_chains(port, modes, chains),
    )
    listener.listener_filters.extend(_inspectors(listener.filter_chains))
    return listener


def port_chains(port: InboundPort, modes: PeerModes, chains: Chains) -> list[FilterChain]:
    """The chains of a port."""
    mode = modes.of(port.number)
    cluster = inbound_cluster(port.number)
    name = listener_name(port.bind or UNSPECIFIED, port.number)
    protocol_http = None if port.protocol is Protocol.AUTO else port.protocol.is_http
    if port.own_tls is not None and mode is PeerMode.DISABLE:
        protocol_http = protocol_http or port.protocol is Protocol.HTTPS
        kinds: tuple[_Kind, ...] = (_Kind(protocol_http, _TLS, True),)
    else:
        kinds = _KINDS[mode, protocol_http]
    out = []
    for kind in kinds:
        chain = _chain(kind, name, port.number, chains, port.own_tls)
        if kind.http:
            chain.filters.append(_http(cluster, port, chains))
        else:
            chain.filters.extend(chains.network_filters)
            chain.filters.append(tcp_proxy(cluster, [(cluster, 1)], chains.logs))
        out.append(chain)
    return out


def _chain(
    kind: _Kind, name: str, port: int, chains: Chains, own_tls: TransportSocket | None = None
) -> FilterChain:
    match = FilterChainMatch(transport_protocol=kind.transport, application_protocols=kind.alpn)
    if port:
        match.destination_port.CopyFrom(u32(port))
    chain = FilterChain(name=name, filter_chain_match=match)
    if kind.terminates:
        chain.transport_socket.CopyFrom(own_tls or chains.mesh_tls)
    return chain


def _http(cluster: str, port: InboundPort, chains: Chains) -> Filter:
    name = listener_name(port.bind or UNSPECIFIED, port.number)
    return http_connections(
        HttpOptions(
            Direction.INBOUND,
            f"inbound_{name}",
            routes=_routes(cluster, f"inbound|http|{port.number}", retries=not port.protocol.is_grpc),
            logs=chains.logs,
            filters=chains.http_filters,
            http2=port.protocol.is_http2,
            grpc_web=port.protocol is Protocol.GRPC_WEB,
        )
    )


def _routes(cluster: str, name: str, *, retries: bool = True) -> RouteConfiguration:
    """Everything to the workload, without a timeout."""
    action = RouteAction(cluster=cluster, timeout=duration(0))
    action.max_stream_duration.max_stream_duration.CopyFrom(duration(0))
    action.max_stream_duration.grpc_timeout_header_max.CopyFrom(duration(0))
    if retries:
        # a kept connection that the workload closed just then; istiod leaves gRPC out, whose streams mind it
        action.retry_policy.retry_on = "reset-before-request"
        action.retry_policy.num_retries.CopyFrom(u32(2))
    route = Route(name="default", route=action)
    route.match.prefix = "/"
    host = VirtualHost(name=name, domains=["*"], routes=[route])
    return RouteConfiguration(name=cluster, virtual_hosts=[host], validate_clusters=boolean(False))


def _passthrough(number: int, mode: PeerMode, chains: Chains) -> Iterator[FilterChain]:
    """Ports of no service: passed on to the workload, under the same rules."""
    for kind in _KINDS[mode, None]:
        name = "virtualInbound-catchall-http" if kind.http else VIRTUAL_INBOUND
        chain = _chain(kind, name, number, chains)
        if kind.http:
            options = HttpOptions(
                Direction.INBOUND,
                INBOUND_PASSTHROUGH,
                routes=_routes(INBOUND_PASSTHROUGH, "inbound|http|0"),
                logs=chains.logs,
                filters=chains.http_filters,
            )
            chain.filters.append(http_connections(options))
        else:
            chain.filters.extend(chains.network_filters)
            chain.filters.append(tcp_proxy(INBOUND_PASSTHROUGH, [(INBOUND_PASSTHROUGH, 1)], chains.logs))
        yield chain


def _blackhole() -> FilterChain:
    """A connection to the listener's own port would go round for ever."""
    chain = FilterChain(name="virtualInbound-blackhole")
    chain.filter_chain_match.destination_port.CopyFrom(u32(INBOUND_PORT))
    chain.filters.append(tcp_proxy(BLACKHOLE, [(BLACKHOLE, 1)]))
    return chain


def _inspectors(chains: Iterable[FilterChain]) -> Iterator[ListenerFilter]:
    """Inspectors, on the ports that have a chain which needs them: a server that speaks first would wait on one."""
    tls: dict[int, bool] = {}
    http: dict[int, bool] = {}
    for chain in chains:
        port = chain.filter_chain_match.destination_port.value
        match = chain.filter_chain_match
        tls[port] = tls.get(port, False) or match.transport_protocol == _TLS
        http[port] = http.get(port, False) or not set(PLAIN_HTTP).isdisjoint(match.application_protocols)
    for needed, make in ((tls, tls_inspector), (http, http_inspector)):
        if any(needed.values()):
            inspector = make()
            default = needed.get(0, False)
            others = sorted(p for p, wanted in needed.items() if p and wanted is not default)
            if others or not default:
                inspector.filter_disabled.CopyFrom(_disabled(others, default=default))
            yield inspector


def _disabled(ports: Sequence[int], *, default: bool) -> ListenerFilterChainMatchPredicate:
    """Where an inspector is off: on ``ports``, or everywhere but there."""
    listed = ListenerFilterChainMatchPredicate()
    ranges = [_range(p) for p in ports]
    if len(ranges) == 1:
        listed.CopyFrom(ranges[0])
    elif ranges:
        listed.or_match.rules.extend(ranges)
    return listed if default else ListenerFilterChainMatchPredicate(not_match=listed)


def _range(port: int) -> ListenerFilterChainMatchPredicate:
    predicate = ListenerFilterChainMatchPredicate()
    predicate.destination_port_range.start = port
    predicate.destination_port_range.end = port + 1
    return predicate
