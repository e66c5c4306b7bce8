"""Security resources, compiled: mutual TLS modes, tokens and authorization as Envoy filters.

The traffic compiler asks here, per proxy: :func:`peer_modes` for the filter chains of an inbound listener,
:func:`accepts_mutual_tls` for an endpoint that others call, :func:`http_filters` and :func:`network_filters`
for what stands before a chain's router or proxy.  Follows istiod 1.30.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from testbed.compiler.names import outbound_cluster
from testbed.compiler.protobuf import packed
from testbed.compiler.security.authorization import Authorization
from testbed.compiler.security.matching import JWT_FILTER
from testbed.compiler.security.peers import PeerMode, PeerModes, accepts_mutual_tls, peer_mode, peer_modes
from testbed.compiler.security.providers import ClusterLookup, ExtensionProvider, MeshConfig
from testbed.compiler.security.selection import attached
from testbed.compiler.security.tokens import Jwks, token_filter
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources.resource import ResourceSet

__all__ = [
    "ClusterLookup",
    "ExtensionProvider",
    "Jwks",
    "MeshConfig",
    "PeerMode",
    "PeerModes",
    "SecurityInputs",
    "accepts_mutual_tls",
    "peer_mode",
    "peer_modes",
    "security_http_filters",
    "security_network_filters",
]


@dataclass(frozen=True)
class SecurityInputs:
    """What security depends on beside resources and topology."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    jwks: Jwks = field(default_factory=dict)
    cluster: ClusterLookup | None = None
    """How a host and port become a cluster of the proxy; none: the topology's services and the ServiceEntries."""


def security_http_filters(
    resources: ResourceSet, workload: MeshWorkload, topology: Topology, inputs: SecurityInputs | None = None
) -> list[HttpFilter]:
    """The HTTP filters of an inbound chain or a gateway, in order; they stand before all others."""
    inputs = inputs or SecurityInputs()
    cluster = inputs.cluster or known_clusters(resources, topology)
    authorization = _authorization(resources, workload, topology, inputs.mesh, cluster)
    requests = attached(resources.request_authentications, workload, topology, root_first=False)
    rules = [rule for resource in requests for rule in resource.spec.jwt_rules]
    gateway = workload.kind is ProxyKind.GATEWAY
    tokens = token_filter(rules, gateway=gateway, jwks=inputs.jwks, cluster=cluster)
    verified = [] if tokens is None else [HttpFilter(name=JWT_FILTER, typed_config=packed(tokens))]
    return [*authorization.http_custom(), *verified, *authorization.http()]


def security_network_filters(
    resources: ResourceSet, workload: MeshWorkload, topology: Topology, inputs: SecurityInputs | None = None
) -> list[Filter]:
    """The network filters of an inbound or gateway TCP chain; they stand before its tcp_proxy."""
    inputs = inputs or SecurityInputs()
    cluster = inputs.cluster or known_clusters(resources, topology)
    authorization = _authorization(resources, workload, topology, inputs.mesh, cluster)
    return [*authorization.tcp_custom(), *authorization.tcp()]


def known_clusters(resources: ResourceSet, topology: Topology) -> ClusterLookup:
    """Clusters by host and port, of the topology's services and the hosts of ServiceEntries."""
    hosts: Mapping[str, None] = dict.fromkeys(
        [s.host for s in topology.services] + [h for e in resources.service_entries for h in e.spec.hosts]
    )
    return lambda host, port: outbound_cluster(host, port) if host in hosts else None


def _authorization(
    resources: ResourceSet, workload: MeshWorkload, topology: Topology, mesh: MeshConfig, cluster: ClusterLookup
) -> Authorization:
    policies = list(attached(resources.authorization_policies, workload, topology, root_first=True))
    return Authorization(policies, topology.trust_domain, mesh, cluster)
