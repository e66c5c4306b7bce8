"""A cluster's endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import Locality as EnvoyLocality
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints

from testbed.compiler.locality import Group
from testbed.compiler.protobuf import struct, u32
from testbed.compiler.services import Endpoint, is_address
from testbed.compiler.upstreamtls import TLS_MODE
from testbed.resources.destination_rule import ClientTLSMode
from testbed.resources.values import selects

TakesTls = Callable[[Endpoint], bool]


def socket_address(address: str, port: int) -> Address:
    """An address to listen on or connect to; ``unix://`` paths have no port."""
    if address.startswith("unix://"):
        return Address(pipe=Pipe(path=address.removeprefix("unix://")))
    return Address(socket_address=SocketAddress(address=address, port_value=port))


def chosen(endpoints: Iterable[Endpoint], labels: Mapping[str, str], *, names: bool) -> list[Endpoint]:
    """Those of a subset; DNS names count only where ``names`` can be resolved by the proxy."""
    return [e for e in endpoints if selects(labels, e.labels) and (names or _dialable(e.address))]


def _dialable(address: str) -> bool:
    return address.startswith("unix://") or is_address(address)


def locality_endpoints(
    groups: Iterable[Group], takes_tls: TakesTls, written: ClientTLSMode | None
) -> list[LocalityLbEndpoints]:
    """Envoy's form.  Each endpoint is marked with whether mesh TLS is for it (see ``upstreamtls``)."""
    out = []
    for group in groups:
        message = LocalityLbEndpoints(priority=group.priority, load_balancing_weight=u32(max(group.weight, 1)))
        place = group.locality
        if place.region or place.zone or place.subzone:
            message.locality.CopyFrom(EnvoyLocality(region=place.region, zone=place.zone, sub_zone=place.subzone))
        for endpoint in group.endpoints:
            message.lb_endpoints.append(_endpoint(endpoint, takes_tls, written))
        out.append(message)
    return out


def _endpoint(endpoint: Endpoint, takes_tls: TakesTls, written: ClientTLSMode | None) -> LbEndpoint:
    message = LbEndpoint(load_balancing_weight=u32(endpoint.weight))
    message.endpoint.address.CopyFrom(socket_address(endpoint.address, endpoint.port))
    mesh_tls = takes_tls(endpoint) if written is None else written is ClientTLSMode.ISTIO_MUTUAL
    if mesh_tls:
        metadata = message.metadata.filter_metadata["envoy.transport_socket_match"]
        metadata.CopyFrom(struct({TLS_MODE: "istio"}))
    return message
