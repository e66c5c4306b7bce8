"""HTTP rules of VirtualServices as Envoy's routes, as one kind of caller sees them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import Metadata, RuntimeFractionalPercent
from envoy.config.route.v3.route_components_pb2 import RedirectAction, Route, RouteAction, WeightedCluster
from envoy.type.v3.percent_pb2 import FractionalPercent

from testbed.compiler.faults import cors_policy, fault, fractional
from testbed.compiler.hashing import hash_policy
from testbed.compiler.headers import header_changes
from testbed.compiler.matches import is_catch_all, route_match
from testbed.compiler.names import outbound_cluster, qualified
from testbed.compiler.protobuf import boolean, duration, packed, struct, u32
from testbed.compiler.retries import retry_policy
from testbed.compiler.services import Service
from testbed.compiler.virtualservices import HttpRule, RoutedHosts
from testbed.resources.destination_rule import ConsistentHashLB
from testbed.resources.values import Destination, selects
from testbed.resources.virtual_service import (
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRoute,
    HTTPRouteDestination,
    RedirectPortSelection,
)

FAULT_FILTER = "envoy.filters.http.fault"
CORS_FILTER = "envoy.filters.http.cors"
DEFAULT_ROUTE = "default"


@dataclass(frozen=True)
class Caller:
    """What routes depend on beside the resources: who calls, through which port of which gateway."""

    namespace: str
    labels: Mapping[str, str]
    gateways: frozenset[str]
    """``mesh``, or the gateways (``namespace/name``) that the listener serves."""
    port: int
    tls: bool = False


@dataclass(frozen=True)
class Surroundings:
    """How names in routes are looked up."""

    service: Callable[[str], Service | None]
    hash_of: Callable[[str, Destination], ConsistentHashLB | None]
    """Consistent hashing of a destination (host in full) by its DestinationRule."""


def resource_metadata(api: str, kind: str, namespace: str, name: str, **own: object) -> Metadata:
    """Where a piece of configuration comes from: ``istio`` as istiod writes it, and our own ``testbed``."""
    path = f"/apis/{api}/v1/namespaces/{namespace}/{kind}/{name}"
    metadata = Metadata()
    metadata.filter_metadata["istio"].CopyFrom(struct({"config": path}))
    if own:
        metadata.filter_metadata["testbed"].CopyFrom(struct({"resource": f"{namespace}/{name}", **own}))
    return metadata


def destination_cluster(destination: Destination, host: str, service: Service | None, listener_port: int) -> str:
    """The cluster of a destination: its port, else the service's only one, else the one that was called."""
    port = listener_port
    if destination.port is not None:
        port = destination.port.number
    elif service is not None and len(service.ports) == 1:
        port = service.ports[0].number
    return outbound_cluster(host, port, destination.subset)


def default_route(cluster: str, hashing: ConsistentHashLB | None) -> Route:
    """The route of a service that no VirtualService speaks of."""
    action = RouteAction(cluster=cluster)
    _timeout(action, None)
    # without a VirtualService istiod leaves the predicate in, hashing or not
    action.retry_policy.CopyFrom(retry_policy(None, hashed=False))
    if (policy := hash_policy(hashing)) is not None:
        action.hash_policy.append(policy)
    return Route(name=DEFAULT_ROUTE, match=route_match(None), route=action)


def routes(hosts: RoutedHosts, caller: Caller, around: Surroundings) -> list[Route]:
    """The VirtualService's routes for a caller, in order; nothing after one that matches everything."""
    found: list[Route] = []
    for rule in hosts.http:
        for match in rule.route.match or (None,):
            if not _applies(match, caller):
                continue
            route = _route(rule, match, hosts, caller, around)
            found.append(route)
            if is_catch_all(route.match):
                return found
        if not rule.route.match:
            break
    return found


def _applies(match: HTTPMatchRequest | None, caller: Caller) -> bool:
    """The part of a condition that is decided here.  Where gateways are named, istiod does not look at labels."""
    if match is None:
        return True
    if match.port and match.port != caller.port:
        return False
    if match.gateways:
        return any(g in caller.gateways for g in match.gateways)
    return selects(match.source_labels, caller.labels) and match.source_namespace in ("", caller.namespace)


def _route(
    rule: HttpRule, match: HTTPMatchRequest | None, hosts: RoutedHosts, caller: Caller, around: Surroundings
) -> Route:
    http = rule.route
    name = http.name or f"{rule.owner}#{rule.index}"
    if match is not None and match.name:
        name = f"{name}.{match.name}"
    namespace, _, resource = rule.owner.partition("/")
    place = http.match.index(match) if match is not None else 0
    route = Route(
        name=name,
        match=route_match(match, hosts.gateway_semantics),
        metadata=resource_metadata(
            "networking.istio.io", "virtual-service", namespace, resource, rule=rule.index, match=place
        ),
    )
    if match is not None and match.stat_prefix:
        route.stat_prefix = match.stat_prefix
    changes = header_changes(http.headers)
    changes.apply(route)
    if http.redirect is not None:
        _redirect(route, http.redirect, caller, hosts.gateway_semantics)
    elif http.direct_response is not None:
        route.direct_response.status = http.direct_response.status
        if (body := http.direct_response.body) is not None:
            if body.bytes is not None:
                route.direct_response.body.inline_bytes = base64.b64decode(body.bytes)
            else:
                route.direct_response.body.inline_string = body.string or ""
    else:
        _destinations(route, rule, hosts, changes.authority, caller, around)
    if http.fault is not None and (message := fault(http.fault)) is not None:
        route.typed_per_filter_config[FAULT_FILTER].CopyFrom(packed(message))
    if http.cors_policy is not None:
        route.typed_per_filter_config[CORS_FILTER].CopyFrom(packed(cors_policy(http.cors_policy)))
    return route


def _redirect(route: Route, redirect: HTTPRedirect, caller: Caller, gateway_semantics: bool) -> None:
    out = RedirectAction(host_redirect=redirect.authority)
    if gateway_semantics and redirect.uri.startswith("%PREFIX()%"):
        out.prefix_rewrite = redirect.uri.removeprefix("%PREFIX()%")
    else:
        out.path_redirect = redirect.uri
    if redirect.scheme:
        out.scheme_redirect = redirect.scheme
    port = redirect.port or 0
    if redirect.derive_port is RedirectPortSelection.FROM_REQUEST_PORT:
        port = caller.port
    scheme = redirect.scheme or ("https" if caller.tls else "http")
    if (port, scheme) not in ((80, "http"), (443, "https")):
        out.port_redirect = port
    out.response_code = {
        302: RedirectAction.FOUND,
        303: RedirectAction.SEE_OTHER,
        307: RedirectAction.TEMPORARY_REDIRECT,
        308: RedirectAction.PERMANENT_REDIRECT,
    }.get(redirect.redirect_code, RedirectAction.MOVED_PERMANENTLY)
    route.redirect.CopyFrom(out)


def _timeout(action: RouteAction, seconds: float | None) -> None:
    """No timeout unless one is given; gRPC's own (``grpc-timeout``) is bound by the same."""
    action.timeout.CopyFrom(duration(seconds or 0))
    action.max_grpc_timeout.CopyFrom(duration(seconds or 0))


def _destinations(
    route: Route, rule: HttpRule, hosts: RoutedHosts, authority: str, caller: Caller, around: Surroundings
) -> None:
    http = rule.route
    action = route.route
    _timeout(action, http.timeout)
    if hosts.gateway_semantics:
        # the Gateway API wants 500 for backends that are not there
        action.cluster_not_found_response_code = RouteAction.INTERNAL_SERVER_ERROR
    authority = _rewrite(action, route, http, hosts.gateway_semantics) or authority
    if authority:
        action.host_rewrite_literal = authority

    def cluster(destination: Destination) -> str:
        host = qualified(destination.host, rule.namespace)
        return destination_cluster(destination, host, around.service(host), caller.port)

    for destination, share in _mirrors(http):
        mirror = action.request_mirror_policies.add(cluster=cluster(destination), runtime_fraction=share)
        mirror.trace_sampled.CopyFrom(boolean(False))
        # the copy asks for the host that the request asked for, not for Envoy's "host-shadow"
        mirror.disable_shadow_host_suffix_append = True
    hashed = False
    if len(http.route) == 1:
        only = http.route[0]
        action.cluster = cluster(only.destination)
        changes = header_changes(only.headers)
        changes.apply(route)
        if changes.authority and not authority:
            action.host_rewrite_literal = changes.authority
        hashed = _hash(action, only, rule, around)
    else:
        for part in http.route:
            if part.weight:
                weighted = WeightedCluster.ClusterWeight(name=cluster(part.destination), weight=u32(part.weight))
                changes = header_changes(part.headers)
                changes.apply(weighted)
                if changes.authority:
                    weighted.host_rewrite_literal = changes.authority
                action.weighted_clusters.clusters.append(weighted)
                # istiod leaves the retry predicate in for weighted destinations, hashing or not
                _hash(action, part, rule, around)
    if (policy := retry_policy(http.retries, hashed=hashed)) is not None:
        action.retry_policy.CopyFrom(policy)


def _hash(action: RouteAction, part: HTTPRouteDestination, rule: HttpRule, around: Surroundings) -> bool:
    hashing = around.hash_of(qualified(part.destination.host, rule.namespace), part.destination)
    if (policy := hash_policy(hashing)) is not None:
        action.hash_policy.append(policy)
    return hashing is not None


def _rewrite(action: RouteAction, route: Route, http: HTTPRoute, gateway_semantics: bool) -> str:
    """Rewrite the path; the authority to rewrite to, if any, is returned."""
    if http.rewrite is None:
        return ""
    if (expression := http.rewrite.uri_regex_rewrite) is not None:
        action.regex_rewrite.pattern.regex = expression.match
        action.regex_rewrite.substitution = expression.rewrite
    elif (uri := http.rewrite.uri) and gateway_semantics and uri == "/":
        # take the prefix away, and keep one slash if nothing is left
        prefix = re.escape(route.match.path_separated_prefix)
        action.regex_rewrite.pattern.regex = f"^{prefix}(/?)(.*)"
        action.regex_rewrite.substitution = r"/\2"
    elif uri:
        action.prefix_rewrite = uri
    return http.rewrite.authority


def _mirrors(http: HTTPRoute) -> Iterator[tuple[Destination, RuntimeFractionalPercent]]:
    if http.mirror is not None:
        whole = None if http.mirror_percent is None else float(http.mirror_percent)
        share = whole if http.mirror_percentage is None else http.mirror_percentage.value
        if share is None or share > 0:
            yield http.mirror, _share(share)
    for mirror in http.mirrors:
        if mirror.percentage is None or mirror.percentage.value > 0:
            yield mirror.destination, _share(mirror.percentage.value if mirror.percentage else None)


def _share(percent: float | None) -> RuntimeFractionalPercent:
    everything = FractionalPercent(numerator=100, denominator=FractionalPercent.HUNDRED)
    return RuntimeFractionalPercent(default_value=everything if percent is None else fractional(percent))
