"""A compiled proxy, read back: the files that its Envoy is given, as Envoy's own messages.

This is the simulator's only source; it never looks at the resources to know what a proxy does.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf import any_pb2, json_format, symbol_database
from google.protobuf.message import Message

from testbed.model.proxy import ProxyConfiguration

# JSON with Any in it can be read only when the messages inside are known to the descriptor pool
for _module in (
    "envoy.config.accesslog.v3.accesslog_pb2",
    "envoy.extensions.access_loggers.file.v3.file_pb2",
    "envoy.extensions.access_loggers.stream.v3.stream_pb2",
    "envoy.extensions.clusters.dynamic_forward_proxy.v3.cluster_pb2",
    "envoy.extensions.filters.http.cors.v3.cors_pb2",
    "envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.filters.http.grpc_stats.v3.config_pb2",
    "envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.jwt_authn.v3.config_pb2",
    "envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2",
    "envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2",
    "envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2",
    "envoy.extensions.filters.network.sni_cluster.v3.sni_cluster_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2",
    "envoy.extensions.path.rewrite.uri_template.v3.uri_template_rewrite_pb2",
    "envoy.extensions.request_id.uuid.v3.uuid_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2",
    "envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.cluster_provided_pb2",
    "envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2",
    "envoy.extensions.load_balancing_policies.maglev.v3.maglev_pb2",
    "envoy.extensions.load_balancing_policies.random.v3.random_pb2",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.ring_hash_pb2",
    "envoy.extensions.load_balancing_policies.round_robin.v3.round_robin_pb2",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3.wrr_locality_pb2",
):
    importlib.import_module(_module)

M = TypeVar("M", bound=Message)
_symbols = symbol_database.Default()


@lru_cache(maxsize=65536)
def _unpacked(type_url: str, value: bytes) -> Message:
    message: Message = _symbols.GetSymbol(type_url.rpartition("/")[2])()
    message.ParseFromString(value)
    return message


def unpack(packed: any_pb2.Any) -> Any:
    """What an ``Any`` holds; callers must not change it."""
    return _unpacked(packed.type_url, packed.value)


class SimulatedProxy:
    """One proxy's listeners, routes, clusters and endpoints."""

    def __init__(self, configuration: ProxyConfiguration) -> None:
        self.workload = configuration.workload
        self._configuration = configuration

    @cached_property
    def listeners(self) -> tuple[Any, ...]:
        """All listeners, in the file's order."""
        return tuple(self._read("lds.json", Listener))

    @cached_property
    def clusters(self) -> Mapping[str, Any]:
        """Clusters by name."""
        return {c.name: c for c in self._read("cds.json", Cluster)}

    def routes(self, name: str) -> Any | None:
        """The RouteConfiguration of that name."""
        return self._routes.get(name)

    def endpoints(self, cluster: Any) -> Any:
        """A cluster's ClusterLoadAssignment: its own, or the file's that it names."""
        if cluster.type == Cluster.EDS:
            name = cluster.eds_cluster_config.service_name or cluster.name
            return self._endpoints.get(name, ClusterLoadAssignment(cluster_name=name))
        return cluster.load_assignment

    @cached_property
    def _routes(self) -> Mapping[str, Any]:
        return {r.name: r for r in self._all("rds/", RouteConfiguration)}

    @cached_property
    def _endpoints(self) -> Mapping[str, Any]:
        return {e.cluster_name: e for e in self._all("eds/", ClusterLoadAssignment)}

    def _all(self, prefix: str, kind: type[M]) -> Iterator[M]:
        for path in self._configuration.files:
            if path.startswith(prefix):
                yield from self._read(path, kind)

    def _read(self, path: str, kind: type[M]) -> Iterator[M]:
        file = self._configuration.files.get(path)
        for resource in json.loads(file.content)["resources"] if file is not None else ():
            fields = {k: v for k, v in resource.items() if k != "@type"}
            yield json_format.ParseDict(fields, kind())
