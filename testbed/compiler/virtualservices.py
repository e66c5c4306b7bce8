"""VirtualServices made ready: names in full, delegates put in place of who delegates to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from testbed.compiler.memory import CompileCache
from testbed.compiler.names import is_wildcard, qualified, qualified_gateway
from testbed.compiler.services import exported
from testbed.model.proxy import content_hash
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.values import Destination, StringMatch
from testbed.resources.virtual_service import (
    HTTPMatchRequest,
    HTTPRoute,
    L4MatchAttributes,
    TCPRoute,
    TLSMatchAttributes,
    TLSRoute,
    VirtualService,
)

SEMANTICS = "internal.istio.io/route-semantics"
"""istiod's own annotation on VirtualServices that stand for the Gateway API's routes: ``gateway``."""


@dataclass(frozen=True)
class HttpRule:
    """One HTTP rule, and where it comes from: names in it mean what they mean in its own namespace."""

    route: HTTPRoute
    namespace: str
    owner: str
    """``namespace/name`` of the VirtualService that holds it."""
    index: int
    """Its place in that VirtualService, from 0."""


@dataclass(frozen=True)
class RoutedHosts:
    """A VirtualService."""

    name: str
    namespace: str
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    http: tuple[HttpRule, ...]
    tls: tuple[TLSRoute, ...]
    tcp: tuple[TCPRoute, ...]
    export_to: tuple[str, ...]
    gateway_semantics: bool
    source_labels: frozenset[str]
    """Keys of the caller's labels that its conditions ask for."""
    asks_namespace: bool
    """Whether a condition asks for the caller's namespace."""
    digest: str
    destinations: tuple[str, ...]
    """Hosts that it sends to, each once."""
    wildcards: bool
    """Whether any of its hosts is a wildcard."""

    def visible_from(self, namespace: str) -> bool:
        """Whether ``exportTo`` lets that namespace see it."""
        return exported(self.export_to, self.namespace, namespace)


def ranked(routed: Iterable[RoutedHosts], namespace: str) -> list[RoutedHosts]:
    """In the order that counts for a namespace: its private ones, those exported to it, then everybody's.

    Within each, routes of the Gateway API that the namespace made for itself come first ("consumer" routes).
    """

    def rank(routes: RoutedHosts) -> tuple[int, bool]:
        exported_to = 2
        if routes.export_to and "*" not in routes.export_to:
            exported_to = 0 if "." in routes.export_to else 1
        return exported_to, not (routes.gateway_semantics and routes.namespace == namespace)

    return sorted(routed, key=rank)


def _destinations(spec: VirtualService, namespace: str, http: Sequence[HttpRule]) -> Iterator[str]:
    for rule in http:
        for d in _http_destinations(rule.route):
            yield qualified(d.host, rule.namespace)
    for route in (*(r.route for r in spec.tcp), *(r.route for r in spec.tls)):
        for weighted in route:
            yield qualified(weighted.destination.host, namespace)


def _http_destinations(route: HTTPRoute) -> Iterator[Destination]:
    yield from (r.destination for r in route.route)
    if route.mirror is not None:
        yield route.mirror
    yield from (m.destination for m in route.mirrors)


def routed_hosts(resources: ResourceSet, cache: CompileCache) -> tuple[RoutedHosts, ...]:
    """Every VirtualService that has hosts, in order."""
    by_name = {(r.namespace, r.name): r for r in resources.virtual_services}
    found = []
    for resource in resources.virtual_services:
        if not resource.spec.hosts:
            continue  # a delegate
        delegates = _delegates(resource, by_name)
        digest = content_hash(resource.digest, *(d.digest for d in delegates)) if delegates else resource.digest

        def build(resource: Resource[VirtualService] = resource, digest: str = digest) -> RoutedHosts:
            return _ready(resource, by_name, digest)

        found.append(cache.get(("routed", digest), build))
    return tuple(found)


_ByName = Mapping[tuple[str, str], Resource[VirtualService]]


def _delegates(resource: Resource[VirtualService], by_name: _ByName) -> list[Resource[VirtualService]]:
    """The VirtualServices that its rules are taken from.  One level deep, as in istiod: a cycle can't arise."""
    found = []
    for route in resource.spec.http:
        if (delegate := _delegate(resource, route, by_name)) is not None:
            found.append(delegate)
    return found


def _delegate(
    resource: Resource[VirtualService], route: HTTPRoute, by_name: _ByName
) -> Resource[VirtualService] | None:
    if route.delegate is None:
        return None
    key = route.delegate.namespace or resource.namespace, route.delegate.name
    delegate = by_name.get(key)
    if delegate is None or delegate.spec.hosts:  # what has hosts of its own can't be delegated to
        return None
    visible = exported(delegate.spec.export_to, delegate.namespace, resource.namespace)
    return delegate if visible else None


def _ready(resource: Resource[VirtualService], by_name: _ByName, digest: str) -> RoutedHosts:
    spec, namespace = resource.spec, resource.namespace
    http = tuple(_rules(resource, by_name))
    matches: list[HTTPMatchRequest] = [m for rule in http for m in rule.route.match]
    layer4: list[L4MatchAttributes | TLSMatchAttributes] = [m for r in spec.tcp for m in r.match]
    layer4 += (m for r in spec.tls for m in r.match)
    return RoutedHosts(
        resource.name,
        namespace,
        tuple(dict.fromkeys(qualified(h, namespace) for h in spec.hosts)),
        tuple(qualified_gateway(g, namespace) for g in spec.gateways) or ("mesh",),
        http,
        spec.tls,
        spec.tcp,
        spec.export_to,
        resource.annotations.get(SEMANTICS) == "gateway",
        frozenset(k for m in (*matches, *layer4) for k in m.source_labels),
        any(m.source_namespace for m in (*matches, *layer4)),
        digest,
        tuple(dict.fromkeys(_destinations(spec, namespace, http))),
        any(is_wildcard(h) for h in spec.hosts),
    )


def _rules(resource: Resource[VirtualService], by_name: _ByName) -> Iterator[HttpRule]:
    owner = f"{resource.namespace}/{resource.name}"
    for index, route in enumerate(resource.spec.http):
        if route.delegate is None:
            yield HttpRule(_gateways_in_full(route, resource.namespace), resource.namespace, owner, index)
            continue
        delegate = _delegate(resource, route, by_name)
        if delegate is None:
            continue  # istiod leaves the rule out as well
        root = _gateways_in_full(route, resource.namespace)
        other = f"{delegate.namespace}/{delegate.name}"
        for place, leaf in enumerate(delegate.spec.http):
            merged = _merged(root, _gateways_in_full(leaf, delegate.namespace))
            if merged is not None:
                yield HttpRule(merged, delegate.namespace, other, place)


def _gateways_in_full(route: HTTPRoute, namespace: str) -> HTTPRoute:
    if not any(m.gateways for m in route.match):
        return route
    match = tuple(
        m.model_copy(update={"gateways": tuple(qualified_gateway(g, namespace) for g in m.gateways)})
        for m in route.match
    )
    return route.model_copy(update={"match": match})


_INHERITED = (
    "rewrite",
    "direct_response",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirror_percent",
    "mirror_percentage",
    "cors_policy",
    "headers",
)


def _merged(root: HTTPRoute, leaf: HTTPRoute) -> HTTPRoute | None:
    """The delegate's rule under the delegating one; ``None`` when their conditions contradict each other."""
    match = _merged_matches(root.match, leaf.match)
    if match is None:
        return None
    update: dict[str, object] = {"match": match, "name": "-".join(n for n in (root.name, leaf.name) if n)}
    update |= {f: getattr(root, f) for f in _INHERITED if getattr(leaf, f) is None}
    if not leaf.mirrors:
        update["mirrors"] = root.mirrors
    return leaf.model_copy(update=update)


def _merged_matches(
    roots: Sequence[HTTPMatchRequest], leaves: Sequence[HTTPMatchRequest]
) -> tuple[HTTPMatchRequest, ...] | None:
    if not roots or not leaves:
        return tuple(leaves or roots)
    out = []
    for leaf in leaves:
        fitting = [root for root in roots if not _conflict(root, leaf)]
        if not fitting:
            return None
        out += [_merged_match(root, leaf) for root in fitting]
    return tuple(out)


def _merged_match(root: HTTPMatchRequest, leaf: HTTPMatchRequest) -> HTTPMatchRequest:
    update: dict[str, object] = {"name": "-".join(n for n in (root.name, leaf.name) if n)}
    for name in ("uri", "scheme", "method", "authority"):
        update[name] = getattr(leaf, name) or getattr(root, name)
    for name in ("headers", "without_headers", "query_params", "source_labels"):
        update[name] = {**getattr(root, name), **getattr(leaf, name)}
    for name in ("port", "source_namespace", "gateways", "stat_prefix"):
        update[name] = getattr(leaf, name) or getattr(root, name)
    return leaf.model_copy(update=update)


def _conflict(root: HTTPMatchRequest, leaf: HTTPMatchRequest) -> bool:
    for name in ("uri", "scheme", "method", "authority"):
        if _strings_conflict(getattr(root, name), getattr(leaf, name)):
            return True
    for name in ("headers", "without_headers", "query_params"):
        mine = getattr(root, name)
        if any(_strings_conflict(mine.get(k), v) for k, v in getattr(leaf, name).items()):
            return True
    return (
        root.ignore_uri_case != leaf.ignore_uri_case
        or bool(root.port and leaf.port and root.port != leaf.port)
        or bool(root.source_namespace and leaf.source_namespace != root.source_namespace)
        or any(root.source_labels.get(k, v) != v for k, v in leaf.source_labels.items())
        or bool(root.gateways and leaf.gateways and not set(leaf.gateways) <= set(root.gateways))
    )


def _strings_conflict(root: StringMatch | None, leaf: StringMatch | None) -> bool:
    """Whether the delegate's condition is not a narrowing of the delegating one's."""
    if root is None or leaf is None:
        return False
    if root.regex or leaf.regex:
        # istiod doesn't compare expressions: one beside any other form is a conflict
        return bool(root.regex and (leaf.regex or leaf.prefix or leaf.exact)) or bool(
            leaf.regex and (root.regex or root.prefix or root.exact)
        )
    if root.exact:
        return leaf.exact != root.exact
    if root.prefix:
        return not (leaf.prefix or leaf.exact or "").startswith(root.prefix)
    return True
