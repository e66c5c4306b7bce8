"""VirtualService: how requests and connections to hosts are routed."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from testbed.resources.values import (
    Bool,
    Count,
    Destination,
    Duration,
    Int32,
    Labels,
    Message,
    OneOf,
    OptionalPort,
    Percent,
    StringMatch,
    UInt32,
    WholePercent,
)


class Delegate(Message):
    """The VirtualService that holds the routes; an empty namespace means the delegating one's."""

    name: str = ""
    namespace: str = ""


class HeaderOperations(Message):
    """Headers overwritten, appended and taken away, in Envoy's order: remove, set, add."""

    set: dict[str, str] = Field({})
    add: dict[str, str] = Field({})
    remove: tuple[str, ...] = ()


class Headers(Message):
    """What is done to the headers of requests and responses."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatchRequest(Message):
    """Conditions that must all hold for a request."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = Field({})
    port: OptionalPort = 0
    source_labels: Labels = Field({})
    gateways: tuple[str, ...] = ()
    query_params: dict[str, StringMatch] = Field({})
    ignore_uri_case: Bool = False
    without_headers: dict[str, StringMatch] = Field({})
    source_namespace: str = ""
    stat_prefix: str = ""


class HTTPRouteDestination(Message):
    """A destination of a route with its weight; weights are relative to their sum."""

    destination: Destination
    weight: Count = 0
    headers: Headers | None = None


class RedirectPortSelection(StrEnum):
    """Where a redirect's port comes from when none is given."""

    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


class HTTPRedirect(OneOf):
    """An answer that sends the caller elsewhere (301 unless ``redirect_code`` says otherwise)."""

    oneofs = (("port", "derive_port"),)
    uri: str = ""
    authority: str = ""
    port: OptionalPort | None = None
    derive_port: RedirectPortSelection | None = None
    scheme: str = ""
    redirect_code: UInt32 = 0


class HTTPBody(OneOf):
    """The body of a direct response; ``bytes`` is base64."""

    oneofs = (("string", "bytes"),)
    string: str | None = None
    bytes: str | None = None


class HTTPDirectResponse(Message):
    """An answer given by the proxy itself."""

    status: UInt32
    body: HTTPBody | None = None


class RegexRewrite(Message):
    """A path rewritten by an RE2 expression; groups are written ``\\1``."""

    match: str = ""
    rewrite: str = ""


class HTTPRewrite(Message):
    """The path and authority that the destination sees."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Message):
    """Retries of a failed request; ``attempts: 0`` turns them off."""

    attempts: Count = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: Bool | None = None
    retry_ignore_previous_hosts: Bool | None = None
    backoff: Duration | None = None


class UnmatchedPreflights(StrEnum):
    """What happens to preflight requests of an origin that is not allowed."""

    UNSPECIFIED = "UNSPECIFIED"
    FORWARD = "FORWARD"
    IGNORE = "IGNORE"


class CorsPolicy(Message):
    """Cross-origin resource sharing."""

    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: Bool | None = None
    unmatched_preflights: UnmatchedPreflights = UnmatchedPreflights.UNSPECIFIED


class Delay(Message):
    """Requests held back; ``percent`` is the older, whole-number form of ``percentage``."""

    percent: WholePercent = 0
    fixed_delay: Duration | None = None
    percentage: Percent | None = None


class Abort(OneOf):
    """Requests answered with an error."""

    oneofs = (("http_status", "grpc_status"),)
    http_status: Int32 | None = None
    grpc_status: str | None = None
    percentage: Percent | None = None


class HTTPFaultInjection(Message):
    """Faults that the caller's proxy makes."""

    delay: Delay | None = None
    abort: Abort | None = None


class HTTPMirrorPolicy(Message):
    """A destination that gets a copy of requests; answers to it are thrown away."""

    destination: Destination
    percentage: Percent | None = None


class HTTPRoute(Message):
    """One HTTP rule: the first whose ``match`` holds decides (any of several; none means all)."""

    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    mirror_percent: WholePercent | None = None
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class RouteDestination(Message):
    """A destination of connections with its weight."""

    destination: Destination
    weight: Count = 0


class L4MatchAttributes(Message):
    """Conditions that must all hold for a connection."""

    destination_subnets: tuple[str, ...] = ()
    port: OptionalPort = 0
    source_subnet: str = ""
    source_labels: Labels = Field({})
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class TLSMatchAttributes(Message):
    """Conditions that must all hold for a TLS connection, its server name among them."""

    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: OptionalPort = 0
    source_labels: Labels = Field({})
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class TLSRoute(Message):
    """One rule for TLS connections that are passed through."""

    match: tuple[TLSMatchAttributes, ...]
    route: tuple[RouteDestination, ...] = ()


class TCPRoute(Message):
    """One rule for plain connections."""

    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class VirtualService(Message):
    """Routes for hosts; an empty ``gateways`` means every sidecar (``mesh``)."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()
