"""Clusters: one for each port of a service and of each of its subsets, and the fixed ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from testbed.compiler.destinationrules import MergedRule, effective_policy, is_passthrough, written_tls_mode
from testbed.compiler.endpoints import TakesTls, chosen, locality_endpoints, socket_address
from testbed.compiler.locality import Viewer, groups, is_weighted
from testbed.compiler.names import (
    BLACKHOLE,
    INBOUND_PASSTHROUGH,
    PASSTHROUGH,
    inbound_cluster,
    outbound_cluster,
    outbound_sni,
)
from testbed.compiler.protobuf import CLUSTER, Fragment, Fragments, duration, fragment, u32
from testbed.compiler.routes import resource_metadata
from testbed.compiler.services import Registry, Resolution, Service
from testbed.compiler.trafficpolicy import (
    CONNECT_TIMEOUT,
    apply_load_balancer,
    apply_outlier_detection,
    apply_pool,
    as_the_caller,
    http2,
    set_protocol_options,
)
from testbed.compiler.upstreamtls import Peer, apply_tls
from testbed.compiler.xdspaths import config_source, endpoints_path
from testbed.model.topology import Protocol, ServicePort
from testbed.resources.destination_rule import ConnectionPoolSettings, TrafficPolicy

INBOUND_SOURCE = "127.0.0.6"
"""Where connections to the workload itself come from, so that the redirect leaves them alone."""
_PASSTHROUGH_IDLE = 300
"""Seconds; istiod's, so that connections to places that nobody knows are not kept for Envoy's hour."""
_NEVER = 315_360_000  # seconds, ten years: idle addresses are never forgotten


@dataclass(frozen=True)
class Destination:
    """A service's port, as a whole or a subset of its endpoints."""

    service: Service
    port: ServicePort
    subset: str = ""

    @property
    def cluster(self) -> str:
        """Its cluster's name."""
        return outbound_cluster(self.service.host, self.port.number, self.subset)


@dataclass(frozen=True)
class View:
    """A service as one kind of caller sees it."""

    registry: Registry
    service: Service
    rule: MergedRule | None
    peer_disabled: bool
    """Whether the service's namespace takes plaintext only."""
    sidecar: bool

    def destinations(self) -> Iterator[Destination]:
        """All that get a cluster, in Istio's order: each port, then its subsets."""
        for port in self.service.ports:
            yield Destination(self.service, port)
            for subset in self.rule.spec.subsets if self.rule else ():
                yield Destination(self.service, port, subset.name)

    def policy(self, destination: Destination) -> TrafficPolicy | None:
        """The policy in force."""
        spec = self.rule.spec if self.rule else None
        return effective_policy(spec, destination.port.number, destination.subset)

    def goes_on(self, destination: Destination) -> bool:
        """Whether connections go where they were going: a policy for the whole port counts for its subsets."""
        whole = replace(destination, subset="")
        return is_passthrough(self.policy(destination)) or is_passthrough(self.policy(whole))

    def place_matters(self) -> bool:
        """Whether what callers see depends on where they are."""
        policies = [p for p in map(self.policy, self.destinations()) if p is not None]
        balancers = [p.load_balancer for p in policies if p.load_balancer is not None]
        return any(p.outlier_detection is not None for p in policies) or any(
            b.locality_lb_setting is not None for b in balancers
        )

    def takes_plaintext(self, destination: Destination) -> bool:
        """Whether callers don't even offer mutual TLS of their own accord.

        Where the caller chose the address, istiod looks at all known endpoints, and wants every one to have a
        sidecar (BestEffortInferServiceMTLSMode).
        """
        if self.peer_disabled:
            return True
        if self.service.resolution is not Resolution.NONE and not self.goes_on(destination):
            return False
        members = self.registry.endpoints(self.service, destination.port)
        return not members or any(not e.sidecar for e in members)

    def load_assignment(
        self, destination: Destination, seen_from: Viewer, takes_tls: TakesTls
    ) -> ClusterLoadAssignment:
        """Who answers."""
        spec = self.rule.spec if self.rule else None
        labels = next((s.labels for s in spec.subsets if s.name == destination.subset), {}) if spec else {}
        found = chosen(
            self.registry.endpoints(self.service, destination.port),
            labels,
            names=self.service.resolution is not Resolution.STATIC,
        )
        written = written_tls_mode(spec, destination.port.number, destination.subset)
        placed = groups(found, self.policy(destination), seen_from)
        return ClusterLoadAssignment(
            cluster_name=destination.cluster, endpoints=locality_endpoints(placed, takes_tls, written)
        )


def _discovery(view: View, destination: Destination) -> int:
    if view.goes_on(destination):
        return int(Cluster.ORIGINAL_DST)
    return {
        Resolution.STATIC: int(Cluster.EDS),
        Resolution.DNS: int(Cluster.STRICT_DNS),
        Resolution.DNS_ROUND_ROBIN: int(Cluster.LOGICAL_DNS),
        # a gateway's callers connect to the gateway: there is no original destination to go on to
        Resolution.NONE: int(Cluster.ORIGINAL_DST if view.sidecar else Cluster.EDS),
    }[view.service.resolution]


def has_endpoint_file(view: View, destination: Destination) -> bool:
    """Whether the cluster's endpoints come from a file of their own."""
    return bool(_discovery(view, destination) == Cluster.EDS)


def outbound(view: View, destination: Destination, seen_from: Viewer, takes_tls: TakesTls) -> Fragment | None:
    """The cluster of a destination; ``None`` for DNS clusters that nobody answers for, as in istiod."""
    policy = view.policy(destination)
    service, port = view.service, destination.port
    cluster = Cluster(name=destination.cluster, type=_discovery(view, destination))
    cluster.common_lb_config.SetInParent()
    options = HttpProtocolOptions()
    if port.protocol.is_http2:
        http2(options)
    elif port.protocol is Protocol.AUTO and view.sidecar:
        as_the_caller(options)
    if cluster.type in (Cluster.STRICT_DNS, Cluster.LOGICAL_DNS):
        assignment = view.load_assignment(destination, seen_from, takes_tls)
        if not any(group.lb_endpoints for group in assignment.endpoints):
            return None
        cluster.load_assignment.CopyFrom(assignment)
        cluster.dns_lookup_family = Cluster.V4_ONLY
        cluster.dns_refresh_rate.CopyFrom(duration(60))
        cluster.respect_dns_ttl = True
    apply_pool(
        cluster, options, policy.connection_pool if policy else None, policy.retry_budget if policy else None
    )
    apply_outlier_detection(cluster, policy.outlier_detection if policy else None)
    apply_load_balancer(cluster, policy.load_balancer if policy else None, weighted=is_weighted(policy))
    peer = Peer(
        view.registry.identities(service),
        outbound_sni(service.host, port.number, destination.subset),
        service.external,
        view.takes_plaintext(destination),
    )
    selected = view.rule is not None and view.rule.selector is not None
    apply_tls(cluster, options, policy.tls if policy else None, peer, sidecar=view.sidecar, selected=selected)
    onward = service.resolution is Resolution.NONE and cluster.type == Cluster.ORIGINAL_DST
    if onward and port.target != port.number:
        cluster.original_dst_lb_config.upstream_port_override.CopyFrom(u32(port.target))
    if cluster.type == Cluster.EDS:
        cluster.eds_cluster_config.eds_config.CopyFrom(config_source(endpoints_path(cluster.name)))
    if view.rule is not None:
        own = {"subset": destination.subset} if destination.subset else {"port": port.number}
        cluster.metadata.CopyFrom(
            resource_metadata("networking.istio.io", "destination-rule", view.rule.namespace, view.rule.name, **own)
        )
    set_protocol_options(cluster, options)
    return fragment(cluster.name, cluster, CLUSTER)


def inbound(
    target: ServicePort, listen: int, pool: ConnectionPoolSettings | None, endpoint: tuple[str, int] | None = None
) -> Fragment:
    """The cluster of a port that the workload listens on; ``endpoint`` is given by a Sidecar's ingress.

    Without one, the connection goes on to where it was going, from a source address that the redirect skips.
    """
    cluster = Cluster(name=inbound_cluster(listen))
    options = HttpProtocolOptions()
    if target.protocol.is_http2:
        http2(options)
    elif target.protocol is Protocol.AUTO:
        as_the_caller(options)
    apply_pool(cluster, options, pool, outbound=False)
    if endpoint is None:
        cluster.type = Cluster.ORIGINAL_DST
        cluster.lb_policy = Cluster.CLUSTER_PROVIDED
        cluster.cleanup_interval.CopyFrom(duration(_NEVER))
        _from_inside(cluster)
    else:
        address, port = endpoint
        cluster.type = Cluster.STATIC
        cluster.load_assignment.cluster_name = cluster.name
        member = cluster.load_assignment.endpoints.add().lb_endpoints.add()
        member.endpoint.address.CopyFrom(socket_address(address, port))
        if not (address.startswith(("127.", "unix://"))):
            _from_inside(cluster)
    set_protocol_options(cluster, options)
    return fragment(cluster.name, cluster, CLUSTER)


def _from_inside(cluster: Cluster) -> None:
    source = cluster.upstream_bind_config.source_address
    source.address, source.port_value = INBOUND_SOURCE, 0


def fixed() -> Fragments:
    """The clusters that every sidecar has."""
    return Fragments.of([blackhole(), passthrough(), passthrough(inward=True)])


def blackhole() -> Fragment:
    """Nobody: where traffic goes that has nowhere to go."""
    cluster = Cluster(name=BLACKHOLE, type=Cluster.STATIC, connect_timeout=duration(CONNECT_TIMEOUT))
    return fragment(BLACKHOLE, cluster, CLUSTER)


def passthrough(*, inward: bool = False) -> Fragment:
    """Wherever the connection was going, outward or to the workload itself."""
    cluster = Cluster(
        name=INBOUND_PASSTHROUGH if inward else PASSTHROUGH,
        type=Cluster.ORIGINAL_DST,
        lb_policy=Cluster.CLUSTER_PROVIDED,
    )
    options = HttpProtocolOptions()
    as_the_caller(options)
    apply_pool(cluster, options, None)
    options.common_http_protocol_options.idle_timeout.CopyFrom(duration(_PASSTHROUGH_IDLE))
    if inward:
        _from_inside(cluster)
    set_protocol_options(cluster, options)
    return fragment(cluster.name, cluster, CLUSTER)
