"""An HTTP connection manager, walked: normalization, filters in order, routes, and what the router does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from testbed.compiler.connections import APPLICATION_PROTOCOLS
from testbed.compiler.simulator import matching, routes
from testbed.compiler.simulator.explanation import Outcome
from testbed.compiler.simulator.matching import Address
from testbed.compiler.simulator.policies import Subject, evaluate
from testbed.compiler.simulator.proxy import unpack
from testbed.compiler.simulator.request import Connection, Http
from testbed.compiler.simulator.tokens import Verdict, authenticate

if TYPE_CHECKING:
    from testbed.compiler.simulator.walk import Place, Trail, Walk

RBAC_METADATA = "envoy.filters.http.rbac"
JWT_METADATA = "envoy.filters.http.jwt_authn"
FAULT, CORS = "envoy.filters.http.fault", "envoy.filters.http.cors"
GRPC_AS_HTTP = 200
"""A gRPC status travels in a trailer; the HTTP status is 200."""

_REDIRECTS = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}  # RedirectAction.RedirectResponseCode
_NOT_FOUND = {0: 503, 1: 404, 2: 500}  # RouteAction.ClusterNotFoundResponseCode


@dataclass(frozen=True)
class State:
    """A request between two filters."""

    http: Http
    routed: Http
    """As it was when its route was chosen."""
    dynamic: Mapping[str, Any]


@dataclass(frozen=True)
class HttpWalk:
    """One connection manager with one connection."""

    walk: Walk
    place: Place
    config: Any
    connection: Connection

    def request(self, http: Http, trail: Trail) -> Iterator[Outcome]:
        """Follow a request through filters and router."""
        http, remote = self._arrived(http)
        state = State(http, http, {})
        for http_filter in self.config.http_filters:
            if http_filter.disabled or not http_filter.HasField("typed_config"):
                continue
            config = unpack(http_filter.typed_config)
            match config.DESCRIPTOR.full_name:
                case "envoy.extensions.filters.http.rbac.v3.RBAC":
                    trail, state, denied = self._authorized(config, state, remote, trail)
                    if denied:
                        yield trail.refused(403, denied)
                        return
                case "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication":
                    result = authenticate(config, state.http, self.walk.now)
                    if result.verdict is not Verdict.OK:
                        yield self._noted_issuers(config, trail, result.verdict.value).refused(
                            result.status, result.verdict.value
                        )
                        return
                    if result.claims:
                        issuer = str(next(iter(result.claims.values())).get("iss", ""))
                        trail = trail.noted("token", issuer, "valid", self.walk.origins.issuer(issuer))
                    anew = any(p.clear_route_cache for p in config.providers.values()) and bool(result.claims)
                    state = State(
                        result.http,
                        result.http if anew else state.routed,
                        {**state.dynamic, JWT_METADATA: dict(result.claims)},
                    )
                case "envoy.extensions.filters.http.set_filter_state.v3.Config":
                    offered = [v for v in config.on_request_headers if v.object_key == APPLICATION_PROTOCOLS]
                    for value in offered:
                        alpn = tuple(value.format_string.text_format_source.inline_string.split(","))
                        state = replace(state, http=replace(state.http, alpn=alpn))
                case "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz":
                    asked = not config.HasField("filter_enabled_metadata") or matching.metadata(
                        config.filter_enabled_metadata, state.dynamic
                    )
                    if asked:
                        trail = trail.noted("authorizer", _authorizer(config), "asked, and taken to agree")
                case _:
                    pass
        yield from self._routes(state, trail)

    def _noted_issuers(self, config: Any, trail: Trail, verdict: str) -> Trail:
        issuers = [p.issuer for _, p in sorted(config.providers.items())]
        origin = self.walk.origins.issuer(issuers[0]) if len(issuers) == 1 else None
        return trail.noted("token", ", ".join(issuers), verdict, origin)

    def _arrived(self, http: Http) -> tuple[Http, Address]:
        """Paths made canonical, and the caller's address as this proxy takes it."""
        hops = self.config.xff_num_trusted_hops
        forwarded = [a for a in http.headers.get("x-forwarded-for", "").split(",") if a.strip()]
        remote: Address = self.connection.source
        if self.config.use_remote_address.value:
            if 0 < hops <= len(forwarded):
                remote = matching.parse_address(forwarded[-hops]) or remote
            http = http.with_header("x-forwarded-for", ",".join([*forwarded, str(self.connection.source)]))
        elif len(forwarded) > hops:
            remote = matching.parse_address(forwarded[-1 - hops]) or remote
        if self.config.normalize_path.value:
            http = http.with_header(":path", _normalized(http.headers.get(":path", "/")))
        if self.config.merge_slashes:
            http = http.with_header(":path", _slashes_merged(http.headers.get(":path", "/")))
        scheme = "https" if self.connection.tls else "http"
        if "x-forwarded-proto" not in http.headers or self.config.use_remote_address.value:
            http = http.with_header("x-forwarded-proto", scheme)
        return http, remote

    def _authorized(self, config: Any, state: State, remote: Address, trail: Trail) -> tuple[Trail, State, str]:
        subject = Subject(self.connection, state.http, remote, state.dynamic)
        if config.HasField("shadow_rules"):
            finding = evaluate(config.shadow_rules, subject)
            prefix = config.shadow_rules_stat_prefix
            noted = {f"{prefix}shadow_engine_result": "allowed" if finding.allowed else "denied"}
            if finding.policy:
                noted[f"{prefix}shadow_effective_policy_id"] = finding.policy
                origin = self.walk.origins.policy(finding.policy)
                trail = trail.noted("policy", finding.policy, "matches, without deciding", origin)
            known = {**state.dynamic.get(RBAC_METADATA, {}), **noted}
            state = replace(state, dynamic={**state.dynamic, RBAC_METADATA: known})
        if not config.HasField("rules"):
            return trail, state, ""
        finding = evaluate(config.rules, subject)
        trail = self.walk.note_policy(trail, finding)
        if finding.allowed:
            return trail, state, ""
        return trail, state, f"denied by {finding.policy}" if finding.policy else "no ALLOW rule matches"

    # -- routes ---------------------------------------------------------------------------------------------

    def _routes(self, state: State, trail: Trail) -> Iterator[Outcome]:
        configuration = self._route_configuration()
        if configuration is None:
            yield trail.refused(404, f"the routes {self.config.rds.route_config_name} are not there")
            return
        host = routes.virtual_host(configuration, state.routed)
        if host is None:
            yield trail.refused(404, f"no virtual host of {configuration.name} answers to {state.http.host!r}")
            return
        trail = trail.noted(
            "virtual host", host.name, f"of routes {configuration.name}" if configuration.name else ""
        )
        if host.require_tls and not self.connection.tls and state.http.headers["x-forwarded-proto"] != "https":
            yield trail.refused(301, "plaintext is redirected to https")
            return
        for choice in routes.choices(host, state.routed, self.connection, state.dynamic):
            branch = trail.likely(choice.probability)
            if not choice.probability:
                continue
            if choice.route is None:
                yield branch.refused(404, "no route matches")
            else:
                origin = self.walk.origins.metadata(choice.route)
                branch = branch.noted("route", choice.route.name or "(no name)", _summary(choice.route), origin)
                yield from self._route_filters(state, configuration, host, choice.route, branch)

    def _route_configuration(self) -> Any | None:
        if self.config.WhichOneof("route_specifier") == "rds":
            return self.place.proxy.routes(self.config.rds.route_config_name)
        return self.config.route_config

    def _route_filters(
        self, state: State, configuration: Any, host: Any, route: Any, trail: Trail
    ) -> Iterator[Outcome]:
        for http_filter in self.config.http_filters:
            if http_filter.name == CORS and state.http.is_cors_preflight:
                policy = _override(CORS, route, host)
                if policy is not None:
                    origin = state.http.headers["origin"]
                    if any(matching.string(m, origin) for m in policy.allow_origin_string_match):
                        yield trail.noted("cors", origin, "preflight answered").refused(200, "an allowed preflight")
                        return
                    if not policy.forward_not_matching_preflights.value:
                        yield trail.noted("cors", origin, "not allowed").refused(
                            200, "a preflight that is not allowed"
                        )
                        return
            elif http_filter.name == FAULT and (fault := _override(FAULT, route, host)) is not None:
                trail, aborted = self._fault(fault, state, route, trail)
                if aborted is not None:
                    yield aborted
                    if not trail.probability:
                        return
        yield from self._action(state, configuration, host, route, trail)

    def _fault(self, fault: Any, state: State, route: Any, trail: Trail) -> tuple[Trail, Outcome | None]:
        if not all(matching.header(h, state.http.headers) for h in fault.headers):
            return trail, None
        if fault.HasField("delay") and (share := routes.fraction(fault.delay.percentage)):
            seconds = fault.delay.fixed_delay.ToNanoseconds() / 1e9
            trail = trail.noted("fault", "delay", f"{seconds:g} s for {float(share * 100):g}%")
        if not fault.HasField("abort"):
            return trail, None
        share = routes.fraction(fault.abort.percentage)
        if not share:
            return trail, None
        kind = fault.abort.WhichOneof("error_type")
        status = fault.abort.http_status if kind == "http_status" else GRPC_AS_HTTP
        detail = f"status {status}" if kind == "http_status" else f"gRPC status {fault.abort.grpc_status}"
        origin = self.walk.origins.metadata(route)
        aborted = trail.likely(share).noted("fault", "abort", detail, origin).refused(status, "an injected fault")
        return trail.likely(1 - share), aborted

    def _action(self, state: State, configuration: Any, host: Any, route: Any, trail: Trail) -> Iterator[Outcome]:
        kind = route.WhichOneof("action")
        if kind == "redirect":
            status = _REDIRECTS[route.redirect.response_code]
            location = routes.redirect_location(state.http, route, self.connection.tls)
            yield trail.refused(status, f"redirected to {location}")
            return
        if kind == "direct_response":
            yield trail.refused(route.direct_response.status, "answered by the route itself")
            return
        if kind != "route":
            yield trail.refused(404, "the route forwards nothing")
            return
        unknown = _NOT_FOUND[route.route.cluster_not_found_response_code]
        for name, share, part in _drawn(route.route, state.http):
            levels = [level for level in (part, route, host, configuration) if level is not None]
            sent = routes.rewritten(routes.changed(state.http, *levels), route, part)
            branch = trail.likely(share)
            if part is not None:
                branch = branch.noted("weight", f"{float(share * 100):g}%", f"for {name}")
            for mirror in route.route.request_mirror_policies:
                mirrored = routes.fraction(mirror.runtime_fraction.default_value)
                branch = branch.noted(
                    "mirror", mirror.cluster, f"{float(mirrored * 100):g}% of requests are copied"
                )
            yield from self.walk.upstream(self.place, name, self.connection, sent, branch, 503, unknown)


def _drawn(action: Any, http: Http) -> Iterator[tuple[str, Fraction, Any | None]]:
    """Clusters with their shares, and the weighted cluster's own settings."""
    match action.WhichOneof("cluster_specifier"):
        case "cluster":
            yield action.cluster, Fraction(1), None
        case "cluster_header":
            yield http.headers.get(action.cluster_header.lower(), ""), Fraction(1), None
        case "weighted_clusters":
            parts = action.weighted_clusters.clusters
            total = sum(p.weight.value for p in parts)
            for part in parts:
                if part.weight.value:
                    yield part.name, Fraction(part.weight.value, total), part


def _override(name: str, *levels: Any) -> Any | None:
    """A filter's settings of the most specific level that has any."""
    for level in levels:
        if name in level.typed_per_filter_config:
            return unpack(level.typed_per_filter_config[name])
    return None


def _summary(route: Any) -> str:
    if route.WhichOneof("action") != "route":
        return ""
    action = route.route
    parts = []
    if seconds := action.timeout.ToNanoseconds() / 1e9:
        parts.append(f"timeout {seconds:g} s")
    if action.HasField("retry_policy") and action.retry_policy.num_retries.value:
        retry = action.retry_policy
        parts.append(f"{retry.num_retries.value} retries on {retry.retry_on}")
    return ", ".join(parts)


def _authorizer(config: Any) -> str:
    if config.WhichOneof("services") == "http_service":
        return str(config.http_service.server_uri.cluster)
    return str(config.grpc_service.envoy_grpc.cluster_name)


def _normalized(whole: str) -> str:
    """Dot segments resolved and backslashes turned, as Envoy's ``normalize_path`` does (RFC 3986, 5.2.4)."""
    path, mark, query = whole.partition("?")
    segments: list[str] = []
    parts = path.replace("\\", "/").split("/")[1:]
    for number, part in enumerate(parts):
        decoded = part.replace("%2e", ".").replace("%2E", ".")
        last = number == len(parts) - 1
        if decoded == "..":
            segments = segments[:-1]
        elif decoded != ".":
            segments.append(part)
            continue
        if last:
            segments.append("")
    return "/" + "/".join(segments) + mark + query


def _slashes_merged(whole: str) -> str:
    path, mark, query = whole.partition("?")
    while "//" in path:
        path = path.replace("//", "/")
    return path + mark + query
