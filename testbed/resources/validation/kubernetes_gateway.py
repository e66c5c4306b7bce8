"""What the Gateway API's own validation refuses (release 1.5)."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.documents import Path
from testbed.resources import kubernetes_gateway as k8s
from testbed.resources.validation.names import Finding, domain_fault, regex_fault
from testbed.resources.values import Message, json_name

_FIELD_OF_TYPE = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "CORS": "cors",
}
_PROTOCOLS = ("HTTP", "HTTPS", "TLS", "TCP")


def kubernetes_gateway(spec: Message, at: Path) -> Iterator[Finding]:
    """All findings of a kind of the Gateway API."""
    if isinstance(spec, k8s.Gateway):
        yield from _gateway(spec, at)
    elif isinstance(spec, k8s.HTTPRoute | k8s.GRPCRoute):
        yield from _route(spec, at)


def _gateway(spec: k8s.Gateway, at: Path) -> Iterator[Finding]:
    if not spec.listeners:
        yield (*at, "listeners"), "a Gateway without listeners", "write at least one"
    names: set[str] = set()
    for i, listener in enumerate(spec.listeners):
        here = (*at, "listeners", i)
        if listener.name in names:
            yield (*here, "name"), f"the listener {listener.name!r} is given twice", "rename one"
        names.add(listener.name)
        if listener.protocol not in _PROTOCOLS:
            yield (
                (*here, "protocol"),
                f"unknown protocol {listener.protocol!r}",
                "write HTTP, HTTPS, TLS or TCP",
            )
        if listener.hostname and (fault := domain_fault(listener.hostname)):
            yield (*here, "hostname"), fault, "write a host name, or '*.' and one"
        if listener.protocol in ("HTTPS", "TLS") and listener.tls is None:
            yield here, f"{listener.protocol} without tls", "write tls with certificateRefs"
        elif listener.tls is not None and listener.protocol in ("HTTP", "TCP"):
            yield (*here, "tls"), f"tls for protocol {listener.protocol}", "write HTTPS or TLS"
        elif listener.tls is not None and listener.tls.mode == "Terminate" and not listener.tls.certificate_refs:
            yield (*here, "tls"), "Terminate needs a certificate", "write certificateRefs"


def _route(spec: k8s.HTTPRoute | k8s.GRPCRoute, at: Path) -> Iterator[Finding]:
    for i, host in enumerate(spec.hostnames):
        if fault := domain_fault(host):
            yield (*at, "hostnames", i), fault, "write a host name, or '*.' and one"
    rules: tuple[k8s.HTTPRouteRule | k8s.GRPCRouteRule, ...] = spec.rules
    for i, rule in enumerate(rules):
        here = (*at, "rules", i)
        matches: tuple[k8s.HTTPRouteMatch | k8s.GRPCRouteMatch, ...] = rule.matches
        for j, match in enumerate(matches):
            yield from _match(match, (*here, "matches", j))
        yield from _filters(rule.filters, (*here, "filters"))
        backends: tuple[k8s.HTTPBackendRef | k8s.GRPCBackendRef, ...] = rule.backend_refs
        for j, backend in enumerate(backends):
            yield from _filters(backend.filters, (*here, "backendRefs", j, "filters"))
            if backend.kind == "Service" and backend.port is None:
                yield (*here, "backendRefs", j), "a Service without a port", "write port"


def _match(match: k8s.HTTPRouteMatch | k8s.GRPCRouteMatch, at: Path) -> Iterator[Finding]:
    expressions: list[tuple[Path, str, str]] = [
        ((*at, "headers", i), h.value, h.type) for i, h in enumerate(match.headers)
    ]
    if isinstance(match, k8s.HTTPRouteMatch):
        expressions += [((*at, "queryParams", i), q.value, q.type) for i, q in enumerate(match.query_params)]
        if match.path is not None:
            expressions.append(((*at, "path"), match.path.value, match.path.type))
            if match.path.type != "RegularExpression" and not match.path.value.startswith("/"):
                yield (*at, "path", "value"), f"the path {match.path.value!r} does not begin with /", "write /…"
    for path, value, kind in expressions:
        if kind == "RegularExpression" and (fault := regex_fault(value)):
            yield (*path, "value"), fault, "write an RE2 expression"


def _filters(
    filters: tuple[k8s.HTTPRouteFilter | k8s.GRPCRouteFilter | k8s.BackendFilter, ...], at: Path
) -> Iterator[Finding]:
    for i, filter_ in enumerate(filters):
        field = _FIELD_OF_TYPE[filter_.type]
        given = filter_.model_fields_set - {"type"}
        if given != {field}:
            yield (
                (*at, i),
                f"a filter of type {filter_.type} takes {json_name(field)}, and that alone",
                "correct it",
            )
    kinds = {filter_.type for filter_ in filters}
    if {"RequestRedirect", "URLRewrite"} <= kinds:
        yield at, "RequestRedirect and URLRewrite exclude each other", "keep one of them"
