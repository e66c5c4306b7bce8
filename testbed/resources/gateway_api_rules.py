"""Rules of HTTPRoute and GRPCRoute as rules of a VirtualService, one match in each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import testbed.resources.kubernetes_gateway as k8s
from testbed.documents import Path
from testbed.model.topology import Topology
from testbed.resources.kinds import GATEWAY_API
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.values import Destination, Percent, PortSelector, StringMatch
from testbed.resources.virtual_service import (
    CorsPolicy,
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPMatchRequest,
    HTTPMirrorPolicy,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    RedirectPortSelection,
    RegexRewrite,
    UnmatchedPreflights,
)

NO_BACKEND = "no-backend.invalid"
"""The host of a backend that may not be used: it has no cluster, so requests are answered 500."""

_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled")
_DEFAULT_ATTEMPTS = 2  # istiod's, for a retry without attempts
_Backends = Sequence[k8s.HTTPBackendRef | k8s.GRPCBackendRef]
_Filters = Sequence[k8s.HTTPRouteFilter | k8s.GRPCRouteFilter | k8s.BackendFilter]


def rules_of(
    route: Resource[k8s.HTTPRoute] | Resource[k8s.GRPCRoute],
    resources: ResourceSet,
    topology: Topology,
    *,
    mesh: bool = False,
) -> Iterator[tuple[HTTPRoute, Path]]:
    """Each match of each rule, in order, with the rule's path in the route's document.

    ``mesh``: for callers in the mesh, who may call other namespaces anyway, no ReferenceGrant is asked for.
    """
    backends = _Granted(route, resources, topology, mesh)
    rules: Sequence[k8s.HTTPRouteRule | k8s.GRPCRouteRule] = route.spec.rules
    for i, rule in enumerate(rules):
        name = rule.name or f"{route.namespace}.{route.name}.{i}"
        base = _actions(rule, backends)
        matches = _matches(rule)
        for match in matches or [HTTPMatchRequest()]:
            given = (match,) if match.model_fields_set else ()
            yield base.model_copy(update={"name": name, "match": given}), ("spec", "rules", i)


class _Granted:
    """Backends of one route: a reference into another namespace wants a ReferenceGrant there."""

    def __init__(
        self,
        route: Resource[k8s.HTTPRoute] | Resource[k8s.GRPCRoute],
        resources: ResourceSet,
        topology: Topology,
        mesh: bool,
    ) -> None:
        self.kind, self.namespace, self.mesh = route.kind, route.namespace, mesh
        self.grants = resources.reference_grants
        self.known = {s.host for s in topology.services} | {
            host for entry in resources.service_entries for host in entry.spec.hosts
        }

    def destination(self, backend: k8s.BackendObjectReference) -> Destination:
        """Where the backend is, or :data:`NO_BACKEND`."""
        namespace = backend.namespace or self.namespace
        is_host = (backend.group, backend.kind) == ("networking.istio.io", "Hostname")
        host = backend.name if is_host else f"{backend.name}.{namespace}.svc.cluster.local"
        is_service = backend.kind == "Service" and backend.group in ("", "core")
        if not (is_host or is_service) or host not in self.known or not self._granted(backend, namespace):
            host = NO_BACKEND
        port = PortSelector(number=backend.port) if backend.port else None
        return Destination(host=host, port=port) if port else Destination(host=host)

    def _granted(self, backend: k8s.BackendObjectReference, namespace: str) -> bool:
        if self.mesh or namespace == self.namespace:
            return True
        wanted = (GATEWAY_API, self.kind, self.namespace)
        return any(
            grant.namespace == namespace
            and any((f.group, f.kind, f.namespace) == wanted for f in grant.spec.from_)
            and any(
                (t.group, t.kind) == (backend.group, backend.kind) and t.name in (None, backend.name)
                for t in grant.spec.to
            )
            for grant in self.grants
        )


def _actions(rule: k8s.HTTPRouteRule | k8s.GRPCRouteRule, backends: _Granted) -> HTTPRoute:
    changes: dict[str, object] = {}
    if headers := _headers(rule.filters):
        changes["headers"] = headers
    for filter_ in rule.filters:
        if isinstance(filter_, k8s.HTTPRouteFilter):
            if filter_.request_redirect is not None:
                changes["redirect"] = _redirect(filter_.request_redirect)
            if filter_.url_rewrite is not None and (rewrite := _rewrite(filter_.url_rewrite)):
                changes["rewrite"] = rewrite
            if filter_.cors is not None:
                changes["cors_policy"] = _cors(filter_.cors)
    mirrors = [_mirror(f.request_mirror, backends) for f in rule.filters if f.request_mirror is not None]
    if mirrors:
        changes["mirrors"] = tuple(mirrors)
    if isinstance(rule, k8s.HTTPRouteRule):
        changes |= _patience(rule)
    if "redirect" not in changes:
        changes |= _backends(rule.backend_refs, backends, grpc=isinstance(rule, k8s.GRPCRouteRule))
    return HTTPRoute().model_copy(update=changes)


def _backends(refs: _Backends, backends: _Granted, grpc: bool) -> dict[str, object]:
    used = [ref for ref in refs if ref.weight]
    if not used:
        # no backend at all is 404, none with a weight is 500; for gRPC it is 500 either way
        return {"direct_response": HTTPDirectResponse(status=500 if refs or grpc else 404)}
    route = []
    for ref in used:
        weight = ref.weight if len(used) > 1 else 0
        part = HTTPRouteDestination(destination=backends.destination(ref), weight=weight)
        headers = _headers(ref.filters)
        route.append(part.model_copy(update={"headers": headers}) if headers else part)
    return {"route": tuple(route)}


def _patience(rule: k8s.HTTPRouteRule) -> dict[str, object]:
    changes: dict[str, object] = {}
    timeouts = rule.timeouts or k8s.HTTPRouteTimeouts()
    if timeouts.request:
        changes["timeout"] = timeouts.request
    if rule.retry is not None:
        attempts = rule.retry.attempts if rule.retry.attempts is not None else _DEFAULT_ATTEMPTS
        on = ",".join((*_RETRY_ON, *map(str, rule.retry.codes))) if attempts else ""
        retries = HTTPRetry(attempts=attempts, retry_on=on, backoff=rule.retry.backoff)
        if timeouts.backend_request:
            retries = retries.model_copy(update={"per_try_timeout": timeouts.backend_request})
        changes["retries"] = retries
    elif timeouts.backend_request:
        changes["timeout"] = timeouts.backend_request  # without retries a try is the whole request
    return changes


def _matches(rule: k8s.HTTPRouteRule | k8s.GRPCRouteRule) -> list[HTTPMatchRequest]:
    if isinstance(rule, k8s.HTTPRouteRule):
        return [_http_match(match) for match in rule.matches] or [HTTPMatchRequest(uri=StringMatch(prefix="/"))]
    return [_grpc_match(match) for match in rule.matches]


def _http_match(match: k8s.HTTPRouteMatch) -> HTTPMatchRequest:
    path = match.path or k8s.HTTPPathMatch()
    uri = {
        "Exact": lambda: StringMatch(exact=path.value),
        # a slash at the end says nothing: prefixes go by whole segments
        "PathPrefix": lambda: StringMatch(prefix=path.value.removesuffix("/") or "/"),
        "RegularExpression": lambda: StringMatch(regex=path.value),
    }[path.type]()
    changes: dict[str, object] = {"uri": uri}
    if match.method is not None:
        changes["method"] = StringMatch(exact=match.method)
    if match.headers:
        changes["headers"] = _named(match.headers)
    if match.query_params:
        changes["query_params"] = _named(match.query_params)
    return HTTPMatchRequest.model_validate(changes, by_name=True)


def _named(matches: Sequence[k8s.HTTPHeaderMatch | k8s.HTTPQueryParamMatch]) -> dict[str, StringMatch]:
    """By name; of several for one name the first counts, as the Gateway API says."""
    out: dict[str, StringMatch] = {}
    for match in matches:
        made = StringMatch(exact=match.value) if match.type == "Exact" else StringMatch(regex=match.value)
        out.setdefault(match.name, made)
    return out


def _grpc_match(match: k8s.GRPCRouteMatch) -> HTTPMatchRequest:
    changes: dict[str, object] = {}
    if (method := match.method) is not None and (method.service or method.method):
        exact = method.type == "Exact"
        if not method.service:
            changes["uri"] = StringMatch(regex=f"/[^/]+/{method.method}")
        elif not method.method:
            changes["uri"] = (
                StringMatch(prefix=f"/{method.service}/") if exact else StringMatch(regex=f"/{method.service}/.+")
            )
        else:
            path = f"/{method.service}/{method.method}"
            changes["uri"] = StringMatch(exact=path) if exact else StringMatch(regex=path)
    if match.headers:
        changes["headers"] = _named(match.headers)
    return HTTPMatchRequest.model_validate(changes, by_name=True)


def _headers(filters: _Filters) -> Headers | None:
    changes: dict[str, HeaderOperations] = {}
    for filter_ in filters:
        if filter_.request_header_modifier is not None:
            changes["request"] = _operations(filter_.request_header_modifier)
        if filter_.response_header_modifier is not None:
            changes["response"] = _operations(filter_.response_header_modifier)
    return Headers(**changes) if changes else None


def _operations(filter_: k8s.HTTPHeaderFilter) -> HeaderOperations:
    return HeaderOperations(
        set={h.name: h.value for h in filter_.set},
        add={h.name: h.value for h in filter_.add},
        remove=filter_.remove,
    )


def _mirror(filter_: k8s.HTTPRequestMirrorFilter, backends: _Granted) -> HTTPMirrorPolicy:
    destination = backends.destination(filter_.backend_ref)
    if filter_.fraction is not None:
        share = 100 * filter_.fraction.numerator / (filter_.fraction.denominator or 100)
        return HTTPMirrorPolicy(destination=destination, percentage=Percent(value=share))
    if filter_.percent is not None:
        return HTTPMirrorPolicy(destination=destination, percentage=Percent(value=float(filter_.percent)))
    return HTTPMirrorPolicy(destination=destination)


def _redirect(filter_: k8s.HTTPRequestRedirectFilter) -> HTTPRedirect:
    # the Gateway API's default is 302 and the request's own port, unless the scheme changes
    changes: dict[str, object] = {"redirect_code": filter_.status_code or 302}
    if filter_.port is not None:
        changes["port"] = filter_.port
    else:
        changes["derive_port"] = (
            RedirectPortSelection.FROM_PROTOCOL_DEFAULT
            if filter_.scheme
            else RedirectPortSelection.FROM_REQUEST_PORT
        )
    if filter_.hostname:
        changes["authority"] = filter_.hostname
    if filter_.scheme:
        changes["scheme"] = filter_.scheme
    if filter_.path is not None:
        whole, prefix = filter_.path.replace_full_path, filter_.path.replace_prefix_match
        changes["uri"] = whole or "" if filter_.path.type == "ReplaceFullPath" else f"%PREFIX()%{prefix or ''}"
    return HTTPRedirect.model_validate(changes, by_name=True)


def _rewrite(filter_: k8s.HTTPURLRewriteFilter) -> HTTPRewrite | None:
    changes: dict[str, object] = {}
    if filter_.path is not None:
        if filter_.path.type == "ReplacePrefixMatch":
            changes["uri"] = (filter_.path.replace_prefix_match or "").removesuffix("/") or "/"
        else:
            changes["uri_regex_rewrite"] = RegexRewrite(match="/.*", rewrite=filter_.path.replace_full_path or "/")
    if filter_.hostname:
        changes["authority"] = filter_.hostname
    return HTTPRewrite.model_validate(changes, by_name=True) if changes else None


def _cors(filter_: k8s.HTTPCORSFilter) -> CorsPolicy:
    return CorsPolicy(
        allow_origins=tuple(_origin(origin) for origin in filter_.allow_origins if origin),
        allow_methods=filter_.allow_methods,
        allow_headers=filter_.allow_headers,
        expose_headers=filter_.expose_headers,
        max_age=float(filter_.max_age) if filter_.max_age > 0 else None,
        allow_credentials=True if filter_.allow_credentials else None,
        unmatched_preflights=UnmatchedPreflights.IGNORE,
    )


def _origin(origin: str) -> StringMatch:
    if origin == "*":
        return StringMatch(regex=r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+$")
    if "*" not in origin:
        return StringMatch(exact=origin)
    if origin.index("*") == len(origin) - 1:
        return StringMatch(prefix=origin[:-1])
    return StringMatch(regex="^" + re.escape(origin).replace(r"\*", ".*") + "$")
