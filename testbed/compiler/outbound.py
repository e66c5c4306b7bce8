"""What a sidecar lets out: a listener for each port of HTTP services, one for each TCP service, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.base_pb2 import OUTBOUND
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener

from testbed.compiler.accesslog import unrouted_log
from testbed.compiler.connections import (
    Direction,
    HttpOptions,
    http_connections,
    http_inspector,
    offer_http,
    tcp_proxy,
    tls_inspector,
)
from testbed.compiler.endpoints import socket_address
from testbed.compiler.inbound import PLAIN_HTTP
from testbed.compiler.layer4 import Layer4, TcpChain, service_chains
from testbed.compiler.names import BLACKHOLE, PASSTHROUGH, listener_name, matches
from testbed.compiler.protobuf import boolean, duration, u32
from testbed.compiler.routes import Caller, destination_cluster
from testbed.compiler.scope import Egress, Scope
from testbed.compiler.services import UNSPECIFIED, Service, protocol_of
from testbed.model.topology import Protocol, ServicePort
from testbed.resources.sidecar import CaptureMode

OUTBOUND_PORT = 15001
VIRTUAL_OUTBOUND = "virtualOutbound"


@dataclass
class _Entry:
    """A listener that is being put together."""

    bind: str
    port: int
    http: bool = False
    proxy: bool = False
    """A forward proxy: callers ask it for absolute URLs."""
    grpc_web: bool = False
    """Whether the first service on it is one that browsers call; then, as in istiod, all are translated for."""
    real: bool = False
    """Whether it listens by itself, and does not wait for redirected connections."""
    locked: bool = False
    """Whether a Sidecar declared it: then nothing else is added."""
    chains: list[TcpChain] = field(default_factory=list)
    sniffed: str = ""
    """The one host whose requests it takes, where connections may be HTTP or not."""
    inside: bool = False
    """Whether that host is one of the mesh, whose proxies want to be told that it is HTTP."""

    @property
    def route_name(self) -> str:
        """The route configuration of its requests: that of the port, or of the one host on it."""
        return f"{self.sniffed}:{self.port}" if self.sniffed else str(self.port)


def entries(scope: Scope, caller_labels: Mapping[str, str], around: Layer4) -> list[_Entry]:
    """The listeners of a scope, in order of address and port."""
    found: dict[tuple[str, int], _Entry] = {}
    # declared ports come first: the listener for what is left adds nothing to them
    for egress in sorted(scope.egress, key=lambda e: not e.port):
        for service in egress.services:
            for port in _ports(egress, service):
                _add(egress, scope, service, port, caller_labels, around, found)
        for entry in found.values():
            entry.locked = entry.locked or bool(egress.port)
    return [found[k] for k in sorted(found)]


def _ports(egress: Egress, service: Service) -> Iterator[ServicePort]:
    """The ports to listen on for a service: its own, or the declared one, whose protocol then counts."""
    declared = egress.declared.port if egress.declared is not None else None
    if declared is None:
        yield from service.ports
    else:
        protocol = protocol_of(declared.protocol)
        yield ServicePort(declared.name, declared.number, protocol, declared.number)


def _bind(egress: Egress) -> tuple[str, bool]:
    """The declared address, if any, and whether the proxy really listens there.

    Without redirection (``captureMode: NONE``) and without an address it listens on loopback.
    """
    declared = egress.declared
    if declared is None:
        return "", False
    real = declared.capture_mode is CaptureMode.NONE or declared.bind.startswith("unix://")
    return declared.bind or ("127.0.0.1" if real else ""), real


def _add(
    egress: Egress,
    scope: Scope,
    service: Service,
    port: ServicePort,
    labels: Mapping[str, str],
    around: Layer4,
    found: dict[tuple[str, int], _Entry],
) -> None:
    bind, real = _bind(egress)
    if port.protocol.is_http:
        key = bind or UNSPECIFIED, port.number
        entry = found.setdefault(key, _Entry(*key, real=real, grpc_web=port.protocol is Protocol.GRPC_WEB))
        if not entry.locked:
            declared = egress.declared.port if egress.declared is not None else None
            entry.http = True
            entry.proxy = declared is not None and declared.protocol.upper() == "HTTP_PROXY"
        return
    for address in service.addresses or (UNSPECIFIED,):
        key = bind or (UNSPECIFIED if "/" in address else address), port.number
        entry = found.setdefault(key, _Entry(*key, real=real))
        sniffed = port.protocol is Protocol.AUTO
        if not entry.locked and not (sniffed and entry.http):  # what tells HTTP apart already stays as it is
            if sniffed:
                entry.http = True
                entry.sniffed = service.host if entry.bind != UNSPECIFIED else ""
                entry.inside = bool(entry.sniffed) and not service.external
            owners = [v for v in egress.virtual_services if any(matches(h, service.host) for h in v.hosts)]
            caller = Caller(scope.namespace, labels, frozenset({"mesh"}), port.number)
            _merge(entry.chains, service_chains(service.at(address), port, owners, caller, around))


def _merge(present: list[TcpChain], new: Sequence[TcpChain]) -> None:
    """Chains of several services on one listener; of equal conditions the first counts."""
    taken = {(c.server_names, c.subnets) for c in present}
    for chain in new:
        if (chain.server_names, chain.subnets) not in taken:
            taken.add((chain.server_names, chain.subnets))
            present.append(chain)


def listener(entry: _Entry, scope: Scope, logs: Sequence[AccessLog]) -> Listener:
    """A listener's configuration."""
    name = listener_name(entry.bind, entry.port)
    out = Listener(
        name=name,
        address=socket_address(entry.bind, entry.port),
        traffic_direction=OUTBOUND,
        continue_on_listener_filters_timeout=True,
        listener_filters_timeout=duration(0),
    )
    if not entry.real:
        out.bind_to_port.CopyFrom(boolean(False))
    if any(c.server_names for c in entry.chains):
        out.listener_filters.append(tls_inspector())
    if entry.http:
        options = HttpOptions(
            Direction.OUTBOUND,
            f"outbound_{name}",
            route_name=entry.route_name,
            logs=logs,
            filters=[offer_http()] if entry.inside else (),
            proxy=entry.proxy,
            grpc_web=entry.grpc_web,
        )
        chain = FilterChain(filters=[http_connections(options)])
        if entry.bind == UNSPECIFIED or entry.chains:
            # on 0.0.0.0 there may be traffic of unknown hosts that is no HTTP: it goes the way of the rest
            chain.filter_chain_match.transport_protocol = "raw_buffer"
            chain.filter_chain_match.application_protocols.extend(PLAIN_HTTP)
            out.listener_filters.append(http_inspector())
        out.filter_chains.append(chain)
    for tcp in entry.chains:
        made = filter_chain(tcp)
        if tcp.matches_all and (entry.http or len(entry.chains) > 1):
            out.default_filter_chain.CopyFrom(made)
        else:
            out.filter_chains.append(made)
    if not out.HasField("default_filter_chain") and not any(c.matches_all for c in entry.chains):
        cluster = egress_cluster(scope)
        out.default_filter_chain.name = "PassthroughFilterChain"
        out.default_filter_chain.filters.append(tcp_proxy(cluster, [(cluster, 1)], logs))
    return out


def filter_chain(chain: TcpChain) -> FilterChain:
    """A TCP chain's configuration."""
    out = FilterChain(filters=chain.filters)
    if chain.metadata is not None:
        out.metadata.CopyFrom(chain.metadata)
    if not chain.matches_all:
        match = out.filter_chain_match
        match.server_names.extend(chain.server_names)
        match.prefix_ranges.extend(_range(s) for s in chain.subnets)
    return out


def _range(subnet: str) -> CidrRange:
    address, _, length = subnet.partition("/")
    whole = 128 if ":" in address else 32
    return CidrRange(address_prefix=address, prefix_len=u32(int(length or whole)))


def egress_cluster(scope: Scope) -> str:
    """Where connections to unknown places go."""
    if not scope.allow_any:
        return BLACKHOLE
    if scope.egress_proxy is not None:
        return destination_cluster(scope.egress_proxy, scope.egress_proxy.host, None, 0)
    return PASSTHROUGH


def virtual_outbound(scope: Scope, logs: Sequence[AccessLog]) -> Listener:
    """The listener that redirected connections come to, and go on from to the listener of their address."""
    out = Listener(
        name=VIRTUAL_OUTBOUND,
        address=socket_address(UNSPECIFIED, OUTBOUND_PORT),
        traffic_direction=OUTBOUND,
        use_original_dst=boolean(True),
        access_log=[unrouted_log(log) for log in logs],
    )
    loop = out.filter_chains.add(name="virtualOutbound-blackhole")
    loop.filter_chain_match.destination_port.CopyFrom(u32(OUTBOUND_PORT))
    loop.filters.append(tcp_proxy(BLACKHOLE, [(BLACKHOLE, 1)]))
    cluster = egress_cluster(scope)
    rest = out.filter_chains.add(name="virtualOutbound-catchall-tcp")
    rest.filters.append(tcp_proxy(cluster, [(cluster, 1)], logs))
    return out


@dataclass(frozen=True)
class Routed:
    """A listener that has a route configuration."""

    listener: str
    port: int
    proxy: bool
    """Whether it is a forward proxy's."""
    host: str
    """The only host of it, where connections are looked into to see whether they are HTTP."""


def routed(found: Sequence[_Entry]) -> list[Routed]:
    """The listeners that have a route configuration."""
    return [Routed(listener_name(e.bind, e.port), e.port, e.proxy, e.sniffed) for e in found if e.http]
