"""A traffic policy on a cluster: pool limits, outlier detection, load balancing."""

from __future__ import annotations

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from testbed.compiler.protobuf import duration, u32, u64
from testbed.resources.destination_rule import (
    ConnectionPoolSettings,
    ConsistentHashLB,
    H2UpgradePolicy,
    HTTPSettings,
    LoadBalancerSettings,
    OutlierDetection,
    RetryBudget,
    SimpleLB,
    TCPSettings,
    WarmupConfiguration,
)

CONNECT_TIMEOUT = 10.0
"""Seconds; Istio's, where Envoy's own would be 5."""
UNLIMITED = 2**32 - 1
"""Istio lifts Envoy's default limits (1024 of each, 3 retries): a limit is there when somebody sets it."""
_H2_TYPE = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def set_protocol_options(cluster: Cluster, options: HttpProtocolOptions) -> None:
    """Attach HTTP options if there are any; Envoy wants the protocol said then."""
    if not options.ByteSize():
        return
    if options.WhichOneof("upstream_protocol_options") is None:
        options.explicit_http_config.http_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[_H2_TYPE].Pack(options, deterministic=True)


def http2(options: HttpProtocolOptions) -> None:
    """Speak HTTP/2 to the destination."""
    if options.WhichOneof("upstream_protocol_options") is None:
        options.explicit_http_config.http2_protocol_options.SetInParent()


def as_the_caller(options: HttpProtocolOptions) -> None:
    """Speak to the destination what the caller spoke."""
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()


def apply_pool(
    cluster: Cluster,
    options: HttpProtocolOptions,
    pool: ConnectionPoolSettings | None,
    budget: RetryBudget | None = None,
    *,
    outbound: bool = True,
) -> None:
    """Limits.  Zero means "not given" in Istio's API, so the unlimited default stays."""
    tcp = (pool.tcp if pool else None) or TCPSettings()
    http = (pool.http if pool else None) or HTTPSettings()
    if outbound and http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE and not http.use_client_protocol:
        http2(options)
    limits = CircuitBreakers.Thresholds(
        max_connections=u32(tcp.max_connections or UNLIMITED),
        max_pending_requests=u32(http.http1_max_pending_requests or UNLIMITED),
        max_requests=u32(http.http2_max_requests or UNLIMITED),
        max_retries=u32(http.max_retries or UNLIMITED),
        track_remaining=True,
    )
    if budget is not None:
        limits.retry_budget.budget_percent.value = 20.0 if budget.percent is None else budget.percent
        limits.retry_budget.min_retry_concurrency.CopyFrom(u32(budget.min_retry_concurrency or 3))
    cluster.circuit_breakers.thresholds.append(limits)
    timeout = CONNECT_TIMEOUT if tcp.connect_timeout is None else tcp.connect_timeout
    cluster.connect_timeout.CopyFrom(duration(timeout))
    _keepalive(cluster, tcp)
    common = options.common_http_protocol_options
    idle = tcp.idle_timeout if http.idle_timeout is None else http.idle_timeout
    if idle is not None:
        common.idle_timeout.CopyFrom(duration(idle))
    if http.max_requests_per_connection > 0:
        common.max_requests_per_connection.CopyFrom(u32(http.max_requests_per_connection))
    if tcp.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    explicit = options.explicit_http_config
    if http.max_concurrent_streams > 0 and explicit.HasField("http2_protocol_options"):
        explicit.http2_protocol_options.max_concurrent_streams.CopyFrom(u32(http.max_concurrent_streams))
    if http.use_client_protocol:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()


def _keepalive(cluster: Cluster, tcp: TCPSettings) -> None:
    settings = tcp.tcp_keepalive
    if settings is None:
        return
    keepalive = cluster.upstream_connection_options.tcp_keepalive
    keepalive.SetInParent()
    if settings.probes:
        keepalive.keepalive_probes.CopyFrom(u32(settings.probes))
    # Envoy and the kernel count whole seconds
    if settings.time is not None:
        keepalive.keepalive_time.CopyFrom(u32(int(settings.time)))
    if settings.interval is not None:
        keepalive.keepalive_interval.CopyFrom(u32(int(settings.interval)))


def apply_outlier_detection(cluster: Cluster, outlier: OutlierDetection | None) -> None:
    """Ejection by consecutive errors; Istio turns Envoy's success-rate detection off.

    ``consecutiveErrors``, long deprecated, does nothing in this release.
    """
    if outlier is None:
        return
    out = cluster.outlier_detection
    out.enforcing_success_rate.CopyFrom(u32(0))
    if (errors := outlier.consecutive_5xx_errors) is not None:
        out.consecutive_5xx.CopyFrom(u32(errors))
        out.enforcing_consecutive_5xx.CopyFrom(u32(100 if errors else 0))
    if (errors := outlier.consecutive_gateway_errors) is not None:
        out.consecutive_gateway_failure.CopyFrom(u32(errors))
        out.enforcing_consecutive_gateway_failure.CopyFrom(u32(100 if errors else 0))
    if outlier.interval is not None:
        out.interval.CopyFrom(duration(outlier.interval))
    if outlier.base_ejection_time is not None:
        out.base_ejection_time.CopyFrom(duration(outlier.base_ejection_time))
    if outlier.max_ejection_percent > 0:
        out.max_ejection_percent.CopyFrom(u32(outlier.max_ejection_percent))
    if outlier.split_external_local_origin_errors:
        out.split_external_local_origin_errors = True
        if outlier.consecutive_local_origin_failures:
            out.consecutive_local_origin_failure.CopyFrom(u32(outlier.consecutive_local_origin_failures))
            out.enforcing_consecutive_local_origin_failure.CopyFrom(u32(100))
        out.enforcing_local_origin_success_rate.CopyFrom(u32(0))
    # Envoy would send to all, ejected or not, when less than half are left ("panic"); Istio: only below this
    cluster.common_lb_config.healthy_panic_threshold.value = max(outlier.min_health_percent, 0)


def apply_load_balancer(cluster: Cluster, balancer: LoadBalancerSettings | None, *, weighted: bool) -> None:
    """The way an endpoint is picked; LEAST_REQUEST unless said otherwise.

    ``weighted``: localities have weights or an order of their own.
    """
    if weighted:
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
    if cluster.type == Cluster.ORIGINAL_DST:
        cluster.lb_policy = Cluster.CLUSTER_PROVIDED
        return
    simple = balancer.simple if balancer else None
    if simple is SimpleLB.PASSTHROUGH:
        cluster.type = Cluster.ORIGINAL_DST
        cluster.lb_policy = Cluster.CLUSTER_PROVIDED
        cluster.ClearField("load_assignment")
        return
    if simple is SimpleLB.RANDOM:
        cluster.lb_policy = Cluster.RANDOM
    elif simple is SimpleLB.ROUND_ROBIN:
        cluster.lb_policy = Cluster.ROUND_ROBIN
        _warm_up(cluster.round_robin_lb_config, balancer)
    else:
        cluster.lb_policy = Cluster.LEAST_REQUEST
        if balancer is None or balancer.consistent_hash is None:
            _warm_up(cluster.least_request_lb_config, balancer)
    if balancer is not None and balancer.consistent_hash is not None:
        _apply_hash(cluster, balancer.consistent_hash)
    if cluster.WhichOneof("lb_config") and not getattr(cluster, cluster.WhichOneof("lb_config")).ByteSize():
        cluster.ClearField(cluster.WhichOneof("lb_config"))


def _warm_up(config: object, balancer: LoadBalancerSettings | None) -> None:
    if balancer is None:
        return
    slow = config.slow_start_config  # type: ignore[attr-defined]
    if (warmup := balancer.warmup) is not None:
        _warmup(slow, warmup)
    elif balancer.warmup_duration_secs is not None:
        slow.slow_start_window.CopyFrom(duration(balancer.warmup_duration_secs))


def _warmup(slow: object, warmup: WarmupConfiguration) -> None:
    slow.slow_start_window.CopyFrom(duration(warmup.duration))  # type: ignore[attr-defined]
    aggression = slow.aggression  # type: ignore[attr-defined]
    aggression.default_value = 1.0 if warmup.aggression is None else warmup.aggression
    aggression.runtime_key = "testbed.warmup.aggression"  # Envoy requires one; nobody sets it
    minimum = 10.0 if warmup.minimum_percent is None else warmup.minimum_percent
    slow.min_weight_percent.value = minimum  # type: ignore[attr-defined]


def _apply_hash(cluster: Cluster, hashing: ConsistentHashLB) -> None:
    if hashing.maglev is not None:
        cluster.lb_policy = Cluster.MAGLEV
        if hashing.maglev.table_size:
            cluster.maglev_lb_config.table_size.CopyFrom(u64(hashing.maglev.table_size))
        return
    cluster.lb_policy = Cluster.RING_HASH
    if hashing.ring_hash is not None:
        size = hashing.ring_hash.minimum_ring_size
    else:
        size = hashing.minimum_ring_size or 1024
    if size:
        cluster.ring_hash_lb_config.minimum_ring_size.CopyFrom(u64(size))
