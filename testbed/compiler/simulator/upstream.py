"""Who can be drawn when a proxy sends to a cluster, and how the connection to each begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthStatus

from testbed.compiler.simulator import matching
from testbed.compiler.simulator.proxy import SimulatedProxy, unpack
from testbed.compiler.simulator.request import Connection

_LOOPBACK = ("127.0.0.1", "::1", "127.0.0.6")
_ABLE = (HealthStatus.UNKNOWN, HealthStatus.HEALTHY, HealthStatus.DEGRADED)


@dataclass(frozen=True)
class Target:
    """An endpoint that may be drawn."""

    address: str
    port: int
    weight: Fraction
    local: bool = False
    """The program beside the proxy."""
    tls: bool = False
    mutual: bool = False
    """The proxy shows its certificate."""
    sni: str = ""
    alpn: tuple[str, ...] = ()
    server_names: tuple[Callable[[str], bool], ...] = ()
    """What the other side's certificate may say; empty: anything."""

    @property
    def description(self) -> str:
        """For people."""
        kind = "mutual TLS" if self.mutual else "TLS" if self.tls else "plaintext"
        return f"the program on port {self.port}" if self.local else f"endpoint {self.address}:{self.port}, {kind}"


def targets(proxy: SimulatedProxy, cluster: Any, connection: Connection, inbound: bool) -> list[Target]:
    """The endpoints of the best priority that has any, each with its weight."""
    if cluster.type == Cluster.ORIGINAL_DST:
        port = cluster.original_dst_lb_config.upstream_port_override.value or connection.port
        target = Target(str(connection.destination), port, Fraction(1), local=inbound)
        return [target if inbound else _secured(target, cluster, {})]
    found: dict[int, list[Target]] = {}
    by_locality = cluster.common_lb_config.HasField("locality_weighted_lb_config")
    for locality in proxy.endpoints(cluster).endpoints:
        able = [e for e in locality.lb_endpoints if e.health_status in _ABLE]
        total = sum(_weight(e) for e in able)
        for endpoint in able:
            weight = Fraction(_weight(endpoint))
            if by_locality:
                weight = weight * locality.load_balancing_weight.value / total
            if weight:
                found.setdefault(locality.priority, []).append(_target(endpoint, weight, cluster, inbound))
    return found[min(found)] if found else []


def _weight(endpoint: Any) -> int:
    return int(endpoint.load_balancing_weight.value) if endpoint.HasField("load_balancing_weight") else 1


def _target(endpoint: Any, weight: Fraction, cluster: Any, inbound: bool) -> Target:
    address = endpoint.endpoint.address
    if address.HasField("pipe"):
        return Target(address.pipe.path, 0, weight)
    socket = address.socket_address
    local = inbound and socket.address in _LOOPBACK
    target = Target(socket.address, socket.port_value, weight, local)
    known = endpoint.metadata.filter_metadata
    labels = dict(known["envoy.transport_socket_match"].items()) if "envoy.transport_socket_match" in known else {}
    return _secured(target, cluster, labels)


def _secured(target: Target, cluster: Any, labels: dict[str, Any]) -> Target:
    """The endpoint with the transport socket that its labels pick."""
    socket = cluster.transport_socket if cluster.HasField("transport_socket") else None
    for candidate in cluster.transport_socket_matches:
        wanted = dict(candidate.match.items())
        if all(labels.get(k) == v for k, v in wanted.items()):
            socket = candidate.transport_socket
            break
    context = unpack(socket.typed_config) if socket is not None and socket.HasField("typed_config") else None
    if context is None or context.DESCRIPTOR.name != "UpstreamTlsContext":
        return target
    common = context.common_tls_context
    validation = common.validation_context
    if common.HasField("combined_validation_context"):
        validation = common.combined_validation_context.default_validation_context
    return Target(
        target.address,
        target.port,
        target.weight,
        target.local,
        tls=True,
        mutual=bool(common.tls_certificate_sds_secret_configs or common.tls_certificates),
        sni=context.sni,
        alpn=tuple(common.alpn_protocols),
        server_names=tuple(partial(matching.string, m.matcher) for m in validation.match_typed_subject_alt_names),
    )
