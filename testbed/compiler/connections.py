"""HTTP connection managers and TCP proxies: the ends of filter chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.listener.v3.listener_components_pb2 import Filter, ListenerFilter
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2 import GrpcWeb
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.type.v3.hash_policy_pb2 import HashPolicy

from testbed.compiler.protobuf import boolean, duration, packed
from testbed.compiler.routes import CORS_FILTER, FAULT_FILTER
from testbed.compiler.upstreamtls import MESH_ALPN
from testbed.compiler.xdspaths import config_source, routes_path

SERVER_NAME = "istio-envoy"
APPLICATION_PROTOCOLS = "envoy.network.application_protocols"
"""Filter state that stands in for the protocols that a cluster's TLS offers."""
MESH_HTTP_ALPNS = ("istio-h2", "istio-http/1.1", MESH_ALPN)


class Direction(Enum):
    """On whose behalf a connection manager acts."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class HttpOptions:
    """What differs between connection managers."""

    direction: Direction
    stat_prefix: str
    route_name: str = ""
    """Of a route configuration in a file of its own; empty: ``routes`` is written in."""
    routes: RouteConfiguration | None = None
    logs: Sequence[AccessLog] = ()
    filters: Sequence[HttpFilter] = field(default_factory=tuple)
    """Security's; they come first."""
    http2: bool = False
    proxy: bool = False
    """Whether callers send absolute URLs, as to a forward proxy."""
    grpc_web: bool = False
    """Whether calls of browsers are translated to gRPC."""


def http_connections(options: HttpOptions) -> Filter:
    """A connection manager."""
    manager = HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        stat_prefix=options.stat_prefix,
        # a caller's own proxy says "envoy" (Envoy's default), those that answer for others say who they are
        server_name="" if options.direction is Direction.OUTBOUND else SERVER_NAME,
        normalize_path=boolean(True),
        use_remote_address=boolean(options.direction is Direction.GATEWAY),
        stream_idle_timeout=duration(0),
        access_log=options.logs,
    )
    manager.upgrade_configs.add(upgrade_type="websocket")
    if options.route_name:
        manager.rds.route_config_name = options.route_name
        manager.rds.config_source.CopyFrom(config_source(routes_path(options.route_name)))
    elif options.routes is not None:
        manager.route_config.CopyFrom(options.routes)
    if options.direction is Direction.INBOUND:
        # the caller's certificate is told in a header
        manager.forward_client_cert_details = HttpConnectionManager.APPEND_FORWARD
        details = manager.set_current_client_cert_details
        details.subject.value = details.uri = details.dns = True
    elif options.direction is Direction.GATEWAY:
        manager.forward_client_cert_details = HttpConnectionManager.SANITIZE_SET
        details = manager.set_current_client_cert_details
        details.subject.value = details.cert = details.uri = details.dns = True
        manager.http_protocol_options.SetInParent()
    if options.http2:
        manager.http2_protocol_options.SetInParent()
    if options.proxy:
        manager.http_protocol_options.allow_absolute_url.value = True
    manager.http_filters.extend(options.filters)
    if options.grpc_web:
        manager.http_filters.append(HttpFilter(name="envoy.filters.http.grpc_web", typed_config=packed(GrpcWeb())))
    manager.http_filters.append(HttpFilter(name=FAULT_FILTER, typed_config=packed(HTTPFault())))
    manager.http_filters.append(HttpFilter(name=CORS_FILTER, typed_config=packed(Cors())))
    manager.http_filters.append(HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router())))
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))


def offer_http() -> HttpFilter:
    """Has mutual TLS tell the other sidecar that requests come, where the port's protocol doesn't say it.

    What Istio's own ALPN filter does; the names are none that a TLS library picks, so that each side's first bytes
    go on to tell the version.
    """
    value = FilterStateValue(object_key=APPLICATION_PROTOCOLS)
    value.format_string.text_format_source.inline_string = ",".join(MESH_HTTP_ALPNS)
    return HttpFilter(name="istio.alpn", typed_config=packed(SetFilterState(on_request_headers=[value])))


def tcp_proxy(
    stat_prefix: str,
    clusters: Iterable[tuple[str, int]],
    logs: Sequence[AccessLog] = (),
    *,
    idle: float | None = None,
    longest: float | None = None,
    by_source: bool = False,
) -> Filter:
    """A TCP proxy to a cluster, or to several by weight.  ``idle`` and ``longest`` are seconds."""
    weighted = list(clusters)
    proxy = TcpProxy(stat_prefix=stat_prefix, access_log=logs)
    if len(weighted) == 1:
        proxy.cluster = weighted[0][0]
    else:
        for name, weight in weighted:
            proxy.weighted_clusters.clusters.add(name=name, weight=weight)
    if idle is not None:
        proxy.idle_timeout.CopyFrom(duration(idle))
    if longest is not None:
        proxy.max_downstream_connection_duration.CopyFrom(duration(longest))
    if by_source:
        proxy.hash_policy.append(HashPolicy(source_ip=HashPolicy.SourceIp()))
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))


def original_destination() -> ListenerFilter:
    """Finds where a redirected connection was going."""
    return ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=packed(OriginalDst()))


def tls_inspector() -> ListenerFilter:
    """Reads server name and protocols from a TLS hello."""
    return ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector()))


def http_inspector() -> ListenerFilter:
    """Finds out whether plaintext is HTTP."""
    return ListenerFilter(name="envoy.filters.listener.http_inspector", typed_config=packed(HttpInspector()))
