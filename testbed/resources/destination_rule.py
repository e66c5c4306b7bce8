"""DestinationRule: how a caller's proxy treats a destination, as a whole, by port and by subset."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from testbed.resources.values import (
    AnyDuration,
    Bool,
    Count,
    Double,
    Duration,
    Int32,
    Labels,
    LabelSelector,
    Message,
    OneOf,
    PortSelector,
    UInt32,
    UInt64,
    WholePercent,
)


class SimpleLB(StrEnum):
    """Load balancing without a hash; LEAST_CONN is the outdated name of LEAST_REQUEST."""

    UNSPECIFIED = "UNSPECIFIED"
    LEAST_CONN = "LEAST_CONN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class RingHash(Message):
    """Envoy's ring hash (Ketama)."""

    minimum_ring_size: UInt64 = 0


class MagLev(Message):
    """Envoy's Maglev table; its size must be prime."""

    table_size: UInt64 = 0


class HTTPCookieAttribute(Message):
    """An attribute of a generated cookie."""

    name: str
    value: str = ""


class HTTPCookie(Message):
    """The cookie that is hashed; with a ttl it is made when missing (0s: a session cookie)."""

    name: str
    path: str = ""
    ttl: AnyDuration | None = None
    attributes: tuple[HTTPCookieAttribute, ...] = ()


class ConsistentHashLB(OneOf):
    """The same key goes to the same endpoint."""

    oneofs = (
        ("http_header_name", "http_cookie", "use_source_ip", "http_query_parameter_name"),
        ("ring_hash", "maglev"),
    )
    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: Bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: UInt64 = 0


class Distribute(Message):
    """Callers in ``from`` spread over the localities in ``to``, whose weights sum to 100."""

    from_: str = Field("", alias="from")
    to: dict[str, UInt32] = Field({})


class Failover(Message):
    """The region that takes over for ``from``."""

    from_: str = Field("", alias="from")
    to: str = ""


class LocalityLoadBalancerSetting(Message):
    """Preference by place."""

    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: Bool | None = None


class WarmupConfiguration(Message):
    """New endpoints get their share slowly."""

    duration: Duration
    minimum_percent: Annotated[Double, Field(ge=0, le=100)] | None = None
    aggression: Annotated[Double, Field(ge=1)] | None = None


class LoadBalancerSettings(OneOf):
    """How an endpoint is picked."""

    oneofs = (("simple", "consistent_hash"), ("warmup_duration_secs", "warmup"))
    simple: SimpleLB | None = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    warmup_duration_secs: Duration | None = None
    warmup: WarmupConfiguration | None = None


class TcpKeepalive(Message):
    """SO_KEEPALIVE; what is left out is the operating system's."""

    probes: UInt32 = 0
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Message):
    """Limits of connections, for HTTP and TCP alike."""

    max_connections: Count = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: AnyDuration | None = None


class H2UpgradePolicy(StrEnum):
    """Whether HTTP/1.1 is sent to the destination as HTTP/2."""

    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class HTTPSettings(Message):
    """Limits of HTTP requests."""

    http1_max_pending_requests: Count = 0
    http2_max_requests: Count = 0
    max_requests_per_connection: Count = 0
    max_retries: Count = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: H2UpgradePolicy = H2UpgradePolicy.DEFAULT
    use_client_protocol: Bool = False
    max_concurrent_streams: Count = 0


class ConnectionPoolSettings(Message):
    """Limits of what a proxy keeps open to a destination."""

    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class OutlierDetection(Message):
    """When an endpoint that fails is left out for a while."""

    consecutive_errors: Int32 = 0
    split_external_local_origin_errors: Bool = False
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: WholePercent = 0
    min_health_percent: WholePercent = 0


class ClientTLSMode(StrEnum):
    """How a caller's proxy begins a connection."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTLSSettings(Message):
    """TLS towards the destination."""

    mode: ClientTLSMode = ClientTLSMode.DISABLE
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: Bool | None = None
    ca_crl: str = ""


class RetryBudget(Message):
    """Retries as a share of the active requests (20 percent, never fewer than 3, unless given)."""

    percent: Annotated[Double, Field(ge=0, le=100)] | None = None
    min_retry_concurrency: UInt32 = 0


class PortTrafficPolicy(Message):
    """The policy of one port; it replaces the destination's, it is not merged with it."""

    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TrafficPolicy(Message):
    """The policy of a destination or a subset."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    retry_budget: RetryBudget | None = None


class Subset(Message):
    """Some of a destination's workloads, by labels, with a policy of their own."""

    name: str
    labels: Labels = Field({})
    traffic_policy: TrafficPolicy | None = None


class DestinationRule(Message):
    """How callers treat ``host``."""

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: LabelSelector | None = None
