"""The part of a proxy's configuration that it starts with: who it is, where the rest lies, its health port."""

from __future__ import annotations

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.health_check.v3.health_check_pb2 import HealthCheck
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2 import (
    DownstreamConnectionsConfig,
)

from testbed.compiler.endpoints import socket_address
from testbed.compiler.layout import Layout
from testbed.compiler.protobuf import as_json, boolean, dumps, duration, packed, struct
from testbed.compiler.services import UNSPECIFIED
from testbed.model.topology import Locality, MeshWorkload, ProxyKind, Topology

ADMIN_PORT = 15000
HEALTH_PORT = 15021
HEALTH_PATH = "/healthz/ready"


def node_id(workload: MeshWorkload) -> str:
    """Istio's: ``sidecar~IP~name.namespace~namespace.svc.cluster.local`` (``router~`` for gateways)."""
    kind = "router" if workload.kind is ProxyKind.GATEWAY else "sidecar"
    namespace = workload.namespace
    return f"{kind}~{workload.address}~{workload.name}.{namespace}~{namespace}.svc.cluster.local"


def bootstrap(workload: MeshWorkload, topology: Topology, layout: Layout | None = None) -> bytes:
    """The proxy's bootstrap file, as JSON."""
    layout = layout or Layout()
    directory = layout.directory(workload)
    out = Bootstrap(node=_node(workload, topology))
    out.admin.address.CopyFrom(socket_address("127.0.0.1", ADMIN_PORT))
    out.dynamic_resources.cds_config.CopyFrom(_watched(directory, "cds.json"))
    out.dynamic_resources.lds_config.CopyFrom(_watched(directory, "lds.json"))
    out.static_resources.listeners.append(_health())
    out.cluster_manager.outlier_detection.event_log_path = layout.outlier_log(workload)
    # tags are for scrapers; no matcher, since one that hides a cluster hides which endpoints it has taken up
    out.stats_config.use_all_default_tags.CopyFrom(boolean(False))
    out.stats_flush_interval.CopyFrom(duration(60))
    layer = out.layered_runtime.layers.add(name="static")
    layer.static_layer.CopyFrom(
        struct(
            {
                "re2.max_program_size.error_level": 32768,
                "envoy.reloadable_features.http_reject_path_with_fragment": False,
            }
        )
    )
    out.layered_runtime.layers.add(name="admin").admin_layer.SetInParent()
    heap = out.overload_manager.resource_monitors.add(
        name="envoy.resource_monitors.global_downstream_max_connections"
    )
    heap.typed_config.CopyFrom(packed(_connections()))
    return dumps(as_json(out)) + b"\n"


def _connections() -> DownstreamConnectionsConfig:
    return DownstreamConnectionsConfig(max_active_downstream_connections=10_000)


def _node(workload: MeshWorkload, topology: Topology) -> Node:
    place: Locality = workload.locality
    node = Node(id=node_id(workload), cluster=f"{workload.service or workload.name}.{workload.namespace}")
    node.locality.region, node.locality.zone, node.locality.sub_zone = place.region, place.zone, place.subzone
    node.metadata.CopyFrom(
        struct(
            {
                "NAME": workload.name,
                "NAMESPACE": workload.namespace,
                "SERVICE_ACCOUNT": workload.service_account,
                "LABELS": dict(sorted(workload.labels.items())),
                "MESH_ID": topology.trust_domain,
            }
        )
    )
    return node


def _watched(directory: str, name: str) -> ConfigSource:
    source = ConfigSource(resource_api_version=ApiVersion.V3, initial_fetch_timeout=duration(0))
    source.path_config_source.path = f"{directory}/{name}"
    source.path_config_source.watched_directory.path = directory
    return source


def _health() -> Listener:
    """Answers once the proxy has all that it waits for at the start: before that it accepts no connection."""
    check = HealthCheck(pass_through_mode=boolean(False))
    check.headers.add(name=":path").string_match.exact = HEALTH_PATH
    manager = HttpConnectionManager(stat_prefix="health")
    host = manager.route_config.virtual_hosts.add(name="health", domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 404
    manager.http_filters.append(HttpFilter(name="envoy.filters.http.health_check", typed_config=packed(check)))
    manager.http_filters.append(HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router())))
    out = Listener(name="health", address=socket_address(UNSPECIFIED, HEALTH_PORT))
    # ready means able to serve even when there are more connections than the limit allows
    out.ignore_global_conn_limit = True
    chain = out.filter_chains.add()
    chain.filters.add(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))
    return out
