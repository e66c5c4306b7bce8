"""The Gateway API (gateway.networking.k8s.io, release 1.5, which Istio 1.30 follows): its kinds as models.

They are translated into Istio's own kinds (:mod:`testbed.resources.gateway_api`) before anything is compiled.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from testbed.resources.values import AnyDuration, Bool, Labels, Message, PortNumber

Int = Annotated[int, Strict()]


class GatewayClass(Message):
    """Names the controller; the class ``istio`` needs none to be written."""

    controller_name: str
    description: str = ""


class SecretObjectReference(Message):
    """A Secret, by default of the same namespace."""

    group: str = ""
    kind: str = "Secret"
    name: str
    namespace: str = ""


class ListenerTLSConfig(Message):
    """TLS of a listener."""

    mode: Literal["Terminate", "Passthrough"] = "Terminate"
    certificate_refs: tuple[SecretObjectReference, ...] = ()


class LabelSelectorRequirement(Message):
    """A condition on one label."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class NamespaceSelector(Message):
    """Namespaces by their labels."""

    match_labels: Labels = Field({})
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class RouteNamespaces(Message):
    """The namespaces whose routes may attach."""

    from_: Literal["All", "Selector", "Same", "None"] = Field("Same", alias="from")
    selector: NamespaceSelector | None = None


class RouteGroupKind(Message):
    """A kind of route."""

    group: str = "gateway.networking.k8s.io"
    kind: str


class AllowedRoutes(Message):
    """Which routes may attach to a listener."""

    namespaces: RouteNamespaces | None = None
    kinds: tuple[RouteGroupKind, ...] = ()


class Listener(Message):
    """A port with one hostname (or any)."""

    name: str
    hostname: str = ""
    port: PortNumber
    protocol: str
    tls: ListenerTLSConfig | None = None
    allowed_routes: AllowedRoutes | None = None


class GatewayAddress(Message):
    """An address asked for; Istio takes a Hostname as the service to use."""

    type: str = "IPAddress"
    value: str = ""


class Gateway(Message):
    """Listeners of a gateway."""

    gateway_class_name: str
    listeners: tuple[Listener, ...]
    addresses: tuple[GatewayAddress, ...] = ()


class ParentReference(Message):
    """What a route attaches to: a Gateway, or (for the mesh) a Service."""

    group: str = "gateway.networking.k8s.io"
    kind: str = "Gateway"
    namespace: str = ""
    name: str
    section_name: str = ""
    port: PortNumber | None = None


class BackendObjectReference(Message):
    """A Service and its port."""

    group: str = ""
    kind: str = "Service"
    name: str
    namespace: str = ""
    port: PortNumber | None = None


class HTTPHeader(Message):
    """A header with its value."""

    name: str
    value: str


class HTTPHeaderFilter(Message):
    """Headers overwritten, appended and taken away."""

    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[str, ...] = ()


class Fraction(Message):
    """A share."""

    numerator: Int
    denominator: Int = 100


class HTTPRequestMirrorFilter(Message):
    """A backend that gets a copy; all requests unless a share is given."""

    backend_ref: BackendObjectReference
    percent: Int | None = None
    fraction: Fraction | None = None


class HTTPPathModifier(Message):
    """A path replaced, as a whole or its matched prefix."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class HTTPRequestRedirectFilter(Message):
    """An answer that sends the caller elsewhere."""

    scheme: Literal["http", "https"] | None = None
    hostname: str | None = None
    path: HTTPPathModifier | None = None
    port: PortNumber | None = None
    status_code: Literal[301, 302, 303, 307, 308] | None = None


class HTTPURLRewriteFilter(Message):
    """The host and path that the backend sees."""

    hostname: str | None = None
    path: HTTPPathModifier | None = None


class HTTPCORSFilter(Message):
    """Cross-origin resource sharing; ``max_age`` in seconds."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: Bool | None = None
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Int = 5


class HTTPRouteFilter(Message):
    """One filter: the field that ``type`` names."""

    type: Literal[
        "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "CORS"
    ]
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None
    cors: HTTPCORSFilter | None = None


class BackendFilter(Message):
    """One filter of a backend: istiod takes those that change headers, and drops a rule that has another."""

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier"]
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None


class HTTPBackendRef(BackendObjectReference):
    """A backend with its weight."""

    weight: Int = 1
    filters: tuple[BackendFilter, ...] = ()


class HTTPPathMatch(Message):
    """How the path is compared; a prefix goes by whole segments."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"


class HTTPHeaderMatch(Message):
    """How a header is compared."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: str
    value: str


class HTTPQueryParamMatch(Message):
    """How a query parameter is compared."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: str
    value: str


class HTTPRouteMatch(Message):
    """Conditions that must all hold."""

    path: HTTPPathMatch | None = None
    headers: tuple[HTTPHeaderMatch, ...] = ()
    query_params: tuple[HTTPQueryParamMatch, ...] = ()
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] | None = None


class HTTPRouteTimeouts(Message):
    """How long the whole request, and one try of it, may take."""

    request: AnyDuration | None = None
    backend_request: AnyDuration | None = None


class HTTPRouteRetry(Message):
    """Retries: on which codes, how often, how far apart."""

    codes: tuple[Int, ...] = ()
    attempts: Int | None = None
    backoff: AnyDuration | None = None


class HTTPRouteRule(Message):
    """One rule; the most specific match of all rules wins, not the first."""

    name: str = ""
    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[HTTPRouteFilter, ...] = ()
    backend_refs: tuple[HTTPBackendRef, ...] = ()
    timeouts: HTTPRouteTimeouts | None = None
    retry: HTTPRouteRetry | None = None


class HTTPRoute(Message):
    """Routes for HTTP."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRouteRule, ...] = ()


class GRPCMethodMatch(Message):
    """A gRPC service, a method, or both."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: str = ""
    method: str = ""


class GRPCRouteMatch(Message):
    """Conditions that must all hold."""

    method: GRPCMethodMatch | None = None
    headers: tuple[HTTPHeaderMatch, ...] = ()


class GRPCRouteFilter(Message):
    """One filter: the field that ``type`` names."""

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror"]
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None


class GRPCBackendRef(BackendObjectReference):
    """A backend with its weight."""

    weight: Int = 1
    filters: tuple[BackendFilter, ...] = ()


class GRPCRouteRule(Message):
    """One rule."""

    name: str = ""
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[GRPCRouteFilter, ...] = ()
    backend_refs: tuple[GRPCBackendRef, ...] = ()


class GRPCRoute(Message):
    """Routes for gRPC."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRouteRule, ...] = ()


class ReferenceGrantFrom(Message):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


class ReferenceGrantTo(Message):
    """To what; no name means all of the kind."""

    group: str
    kind: str
    name: str | None = None


class ReferenceGrant(Message):
    """Lets resources of other namespaces refer to this one's."""

    from_: tuple[ReferenceGrantFrom, ...] = Field(alias="from")
    to: tuple[ReferenceGrantTo, ...]
