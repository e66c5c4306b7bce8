"""What Istio refuses in a VirtualService."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from testbed.documents import Path
from testbed.resources.validation.names import (
    Finding,
    domain_fault,
    export_to_findings,
    gateway_name_findings,
    host_matches,
    host_subset,
    is_dns_label,
    is_ip,
    labels_findings,
    regex_fault,
    subnet_fault,
)
from testbed.resources.values import Destination, StringMatch
from testbed.resources.virtual_service import (
    CorsPolicy,
    Headers,
    HTTPMatchRequest,
    HTTPRetry,
    HTTPRoute,
    L4MatchAttributes,
    RouteDestination,
    TLSMatchAttributes,
    VirtualService,
)

RETRY_ON = {
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
    "retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure", "cancelled",
    "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}  # fmt: skip
GRPC_STATUSES = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}  # fmt: skip
_CORS_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}
_KNOWN_CODES = (
    *range(100, 104), *range(200, 209), 226, *range(300, 306), 307, 308, *range(400, 419), *range(421, 427), 428,
    429, 431, 451, *range(500, 509), 510, 511,
)  # fmt: skip
_HTTP_CODES = {str(code) for code in _KNOWN_CODES}
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~A-Za-z0-9]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# Envoy reads %NAME% and %NAME(ARGUMENTS)% as values of its own, and %% as a percent sign
_HEADER_FORMAT = re.compile(r"(?:[^%]|%%|%[^%(]+(?:\([^)]*\) *)?%)*")
_PSEUDO = {":method", ":scheme", ":authority", ":path", ":status"}
_CLAIM = re.compile(r"@request\.auth\.claims(\.|\[)")
_BODY_LIMIT = 1024 * 1024


def virtual_service(spec: VirtualService, namespace: str, at: Path) -> Iterator[Finding]:
    """All findings, in the order of the fields."""
    for_gateway = bool(spec.gateways) and "mesh" not in spec.gateways
    yield from _hosts(spec, for_gateway, at)
    yield from gateway_name_findings(spec.gateways, (*at, "gateways"))
    if not (spec.http or spec.tls or spec.tcp):
        yield at, "no http, tls or tcp routes", "write routes below one of them"
    for i, route in enumerate(spec.http):
        yield from _http(route, (*at, "http", i), delegated=not spec.hosts, for_gateway=for_gateway)
    for i, tls in enumerate(spec.tls):
        here = (*at, "tls", i)
        if not tls.match:
            yield (*here, "match"), "a TLS route without a match", "write match with sniHosts"
        for j, tls_match in enumerate(tls.match):
            yield from _sni(tls_match, spec, (*here, "match", j))
            yield from _connection(tls_match, (*here, "match", j))
        yield from _connections_to(tls.route, here)
    for i, tcp in enumerate(spec.tcp):
        for j, match in enumerate(tcp.match):
            yield from _connection(match, (*at, "tcp", i, "match", j))
            if match.source_subnet and (fault := subnet_fault(match.source_subnet)):
                yield (*at, "tcp", i, "match", j, "sourceSubnet"), fault, "write it as 10.1.0.0/16"
        yield from _connections_to(tcp.route, (*at, "tcp", i))
    yield from export_to_findings(spec.export_to, namespace, (*at, "exportTo"))


def destination_findings(destination: Destination | None, at: Path) -> Iterator[Finding]:
    """A host (not ``*``) and a subset's name."""
    if destination is None:
        return
    if destination.host == "*":
        yield (*at, "host"), "'*' is no destination", "write the host of a service"
    elif (fault := domain_fault(destination.host)) and not is_ip(destination.host):
        yield (*at, "host"), fault, "write the host of a service"
    if destination.subset and not is_dns_label(destination.subset):
        yield (*at, "subset"), f"{destination.subset!r} is no subset name", "write letters, digits and '-'"


def _hosts(spec: VirtualService, for_gateway: bool, at: Path) -> Iterator[Finding]:
    if not spec.hosts:  # a delegate
        for name, given in (("gateways", spec.gateways), ("tls", spec.tls), ("tcp", spec.tcp)):
            if given:
                message = f"a VirtualService without hosts is a delegate, which takes no {name}"
                yield (*at, name), message, f"write hosts, or remove {name}"
        return
    for i, host in enumerate(spec.hosts):
        if (fault := domain_fault(host)) and not is_ip(host):
            yield (*at, "hosts", i), fault, "write a host name, or '*.' and one"
        elif host == "*" and not for_gateway:
            message = "the host '*' is not allowed for the mesh's sidecars"
            yield (*at, "hosts", i), message, "name the hosts, or a gateway below gateways"
    for (_, one), (j, other) in combinations(enumerate(spec.hosts), 2):
        if host_matches(one, other):
            yield (*at, "hosts", j), f"the hosts {one!r} and {other!r} overlap", "keep one of them"


def _http(route: HTTPRoute, at: Path, delegated: bool, for_gateway: bool) -> Iterator[Finding]:
    yield from _conflicts(route, at, delegated)
    for i, match in enumerate(route.match):
        yield from _match(match, (*at, "match", i), for_gateway)
    yield from _headers(route.headers, (*at, "headers"))
    yield from _cors(route.cors_policy, (*at, "corsPolicy"))
    yield from _fault(route, (*at, "fault"))
    yield from destination_findings(route.mirror, (*at, "mirror"))
    for i, mirror in enumerate(route.mirrors):
        yield from destination_findings(mirror.destination, (*at, "mirrors", i, "destination"))
    yield from _answers(route, at)
    yield from _retries(route.retries, (*at, "retries"))
    yield from _rewrite(route, at)
    for i, part in enumerate(route.route):
        yield from _headers(part.headers, (*at, "route", i, "headers"))
        yield from destination_findings(part.destination, (*at, "route", i, "destination"))
    if len(route.route) > 1 and not any(part.weight for part in route.route):
        yield (*at, "route"), "several destinations, and no weight above 0", "give each its weight"


def _conflicts(route: HTTPRoute, at: Path, delegated: bool) -> Iterator[Finding]:
    if route.delegate is not None and not delegated:
        for name, given in (
            ("redirect", route.redirect),
            ("route", route.route),
        ):
            if given:
                yield (*at, name), f"delegate and {name} exclude each other", "keep one of them"
        return
    if route.delegate is not None:
        yield (*at, "delegate"), "a delegate cannot delegate further", "write the routes here"
    answer = "redirect" if route.redirect else "directResponse" if route.direct_response else ""
    if answer:
        others: dict[str, object] = {
            "route": route.route,
            "fault": route.fault,
            "rewrite": route.rewrite,
            "directResponse": route.direct_response if answer == "redirect" else None,
        }
        for name, other in others.items():
            if other:
                yield (*at, name), f"{answer} and {name} exclude each other", "keep one of them"
    elif not route.route:
        yield at, "no route, redirect or directResponse", "write route with a destination"
    if route.mirror is not None and route.mirrors:
        yield (*at, "mirrors"), "mirror and mirrors exclude each other", "write all of them below mirrors"


def _match(match: HTTPMatchRequest, at: Path, for_gateway: bool) -> Iterator[Finding]:
    for name, value in (("scheme", match.scheme), ("method", match.method), ("authority", match.authority)):
        yield from string_match_findings(value, (*at, name))
    if match.uri is not None and match.uri.regex is not None:
        yield from string_match_findings(match.uri, (*at, "uri"))
    for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name, value in headers.items():
            here = (*at, field, name)
            if _CLAIM.match(name):
                if not for_gateway:
                    yield here, "claims can be matched at gateways only", "name the gateway below gateways"
            elif name not in _PSEUDO and not _HEADER_NAME.fullmatch(name):
                yield here, f"{name!r} is no header name", "write a header name"
            if field == "headers" or value.regex != "*":
                yield from string_match_findings(value, here)
    for name, value in match.query_params.items():
        yield from string_match_findings(value, (*at, "queryParams", name))
    yield from labels_findings(match.source_labels, (*at, "sourceLabels"))
    yield from gateway_name_findings(match.gateways, (*at, "gateways"))
    if match.source_namespace and not is_dns_label(match.source_namespace):
        yield (*at, "sourceNamespace"), f"{match.source_namespace!r} is no namespace", "write a namespace"


def string_match_findings(match: StringMatch | None, at: Path) -> Iterator[Finding]:
    """No empty prefix; an expression that RE2 takes."""
    if match is None:
        return
    if match.prefix == "":
        yield (*at, "prefix"), "an empty prefix", "write the beginning of the value, or leave the match out"
    if match.regex is not None and (fault := regex_fault(match.regex)):
        yield (*at, "regex"), fault, "write an RE2 expression"


def _headers(headers: Headers | None, at: Path) -> Iterator[Finding]:
    for side in ("request", "response"):
        operations = getattr(headers, side, None)
        if operations is None:
            continue
        for field in ("set", "add"):
            for name, value in getattr(operations, field).items():
                yield from _header_name(name, (*at, side, field, name), side == "request")
                yield from _header_value(value, (*at, side, field, name))
        for i, name in enumerate(operations.remove):
            yield from _header_name(name, (*at, side, "remove", i), False)


def _header_name(name: str, at: Path, authority: bool) -> Iterator[Finding]:
    if not name:
        yield at, "an empty header name", "write a header name"
    elif (name.startswith(":") or name.lower() == "host") and not (
        authority and name.lower() in (":authority", "host")
    ):
        yield at, f"the header {name!r} can't be changed here", "use rewrite for authority and path"


def _header_value(value: str, at: Path) -> Iterator[Finding]:
    if not _HEADER_VALUE.fullmatch(value):
        yield at, "a header value with control characters", "remove them"
    elif not _HEADER_FORMAT.fullmatch(value):
        yield at, f"a single % in {value!r}", "write %% for a percent sign"


def _cors(policy: CorsPolicy | None, at: Path) -> Iterator[Finding]:
    if policy is None:
        return
    for i, origin in enumerate(policy.allow_origins):
        if not (origin.exact or origin.prefix or origin.regex):
            yield (*at, "allowOrigins", i), "an origin without a value", "write exact, prefix or regex"
        elif origin.regex:
            yield from string_match_findings(origin, (*at, "allowOrigins", i))
    for i, method in enumerate(policy.allow_methods):
        if method not in _CORS_METHODS:
            yield (*at, "allowMethods", i), f"{method!r} is no HTTP method", "write it in capitals: GET, POST, …"
    for field, names in (("allowHeaders", policy.allow_headers), ("exposeHeaders", policy.expose_headers)):
        for i, name in enumerate(names):
            if name != "*" and not _HEADER_NAME.fullmatch(name):
                yield (*at, field, i), f"{name!r} is no header name", "write a header name"
    if policy.max_age is not None and policy.max_age % 1:
        yield (*at, "maxAge"), "maxAge counts whole seconds", "write it in seconds"


def _fault(route: HTTPRoute, at: Path) -> Iterator[Finding]:
    fault = route.fault
    if fault is None:
        return
    if fault.abort is None and fault.delay is None:
        yield at, "a fault without abort and delay", "write one of them"
    for name, part in (("delay", fault.delay), ("abort", fault.abort)):
        if part is not None and part.percentage is not None and 0 < part.percentage.value < 0.0001:
            message = "the smallest percentage above 0 is 0.0001"
            yield (*at, name, "percentage", "value"), message, "write 0 or 0.0001 or more"
    if (abort := fault.abort) is not None:
        if abort.http_status is not None and not 200 <= abort.http_status <= 600:
            yield (*at, "abort", "httpStatus"), f"{abort.http_status} is no HTTP status (200 to 599)", "write one"
        if abort.grpc_status is not None and abort.grpc_status not in GRPC_STATUSES:
            message = f"{abort.grpc_status!r} is no gRPC status"
            yield (*at, "abort", "grpcStatus"), message, "write a name such as UNAVAILABLE"


def _answers(route: HTTPRoute, at: Path) -> Iterator[Finding]:
    if (redirect := route.redirect) is not None:
        here = (*at, "redirect")
        if not (redirect.uri or redirect.authority or redirect.scheme or redirect.which()):
            yield here, "a redirect to nowhere else", "write uri, authority, scheme or port"
        if redirect.redirect_code and not 300 <= redirect.redirect_code <= 399:
            yield (
                (*here, "redirectCode"),
                f"{redirect.redirect_code} is no redirect",
                "write 301, 302, 307, 308",
            )
        if redirect.scheme not in ("", "http", "https"):
            yield (*here, "scheme"), f"{redirect.scheme!r} is neither http nor https", "write http or https"
    if (response := route.direct_response) is not None:
        here = (*at, "directResponse")
        if not 200 <= response.status <= 600:
            yield (*here, "status"), f"{response.status} is no HTTP status (200 to 599)", "write one"
        if response.body and len(response.body.string or response.body.bytes or "") > _BODY_LIMIT:
            yield (*here, "body"), "a body of more than 1 MiB", "serve it from a workload"


def _retries(retries: HTTPRetry | None, at: Path) -> Iterator[Finding]:
    if retries is None:
        return
    if retries.attempts == 0 and (
        retries.per_try_timeout is not None or retries.retry_on or retries.retry_remote_localities is not None
    ):
        yield at, "retries with settings but 0 attempts, which turns them off", "write attempts: 2, say"
    for condition in retries.retry_on.split(",") if retries.retry_on else ():
        if condition not in RETRY_ON and condition not in _HTTP_CODES:
            known = "an HTTP status or one of " + ", ".join(sorted(RETRY_ON))
            yield (*at, "retryOn"), f"{condition!r} is no condition for a retry", f"write {known}; no blanks"


def _rewrite(route: HTTPRoute, at: Path) -> Iterator[Finding]:
    rewrite, here = route.rewrite, (*at, "rewrite")
    if rewrite is not None:
        by_regex = rewrite.uri_regex_rewrite
        if rewrite.uri and by_regex is not None:
            yield here, "uri and uriRegexRewrite exclude each other", "keep one of them"
        if not (rewrite.uri or rewrite.authority or by_regex):
            yield here, "a rewrite of nothing", "write uri, uriRegexRewrite or authority"
        if by_regex is not None:
            if not by_regex.match or not by_regex.rewrite:
                yield (*here, "uriRegexRewrite"), "uriRegexRewrite needs match and rewrite", "write both"
            elif fault := regex_fault(by_regex.match):
                yield (*here, "uriRegexRewrite", "match"), fault, "write an RE2 expression"
    places = ["rewrite.authority"] if rewrite and rewrite.authority else []
    request = route.headers.request if route.headers else None
    for field, names in (("set", request.set), ("add", request.add)) if request else ():
        places += [f"headers.request.{field}" for name in names if name.lower() in (":authority", "host")]
    if len(places) > 1:
        yield at, f"the authority is set more than once ({', '.join(places)})", "keep one of them"


def _sni(match: TLSMatchAttributes, spec: VirtualService, at: Path) -> Iterator[Finding]:
    if not match.sni_hosts:
        yield (*at, "sniHosts"), "no sniHosts", "write the server names"
    for i, name in enumerate(match.sni_hosts):
        if is_ip(name):
            continue
        if fault := domain_fault(name):
            yield (*at, "sniHosts", i), fault, "write a host name"
        elif not any(host_subset(name, host) for host in spec.hosts):
            message = f"{name!r} is none of the hosts ({', '.join(spec.hosts)})"
            yield (*at, "sniHosts", i), message, "write it below hosts too"


def _connection(match: L4MatchAttributes | TLSMatchAttributes, at: Path) -> Iterator[Finding]:
    for i, subnet in enumerate(match.destination_subnets):
        if fault := subnet_fault(subnet):
            yield (*at, "destinationSubnets", i), fault, "write it as 10.1.0.0/16"
    yield from labels_findings(match.source_labels, (*at, "sourceLabels"))
    yield from gateway_name_findings(match.gateways, (*at, "gateways"))


def _connections_to(route: tuple[RouteDestination, ...], at: Path) -> Iterator[Finding]:
    if not route:
        yield at, "no route", "write route with a destination"
    for i, part in enumerate(route):
        yield from destination_findings(part.destination, (*at, "route", i, "destination"))
    if len(route) > 1 and not any(part.weight for part in route):
        yield (*at, "route"), "several destinations, and no weight above 0", "give each its weight"
