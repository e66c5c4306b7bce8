"""The Gateway API onto Istio's own kinds, as istiod 1.30 does it (its package ``config/kube/gateway``).

Every listener becomes a Gateway, every host with routes on a listener a VirtualService that carries istiod's own
annotation for "this stands for the Gateway API": path prefixes then go by whole segments, an unknown backend is
answered 500, and a redirect's ``%PREFIX()%`` is the matched prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import testbed.resources.kubernetes_gateway as k8s
from testbed.documents import Document, Path, dotted
from testbed.errors import Location, Problem
from testbed.model.topology import ProxyKind, Topology
from testbed.resources.gateway import Gateway, Port, Server, ServerTLSMode, ServerTLSSettings
from testbed.resources.gateway_api_rules import rules_of
from testbed.resources.kinds import GATEWAY_API, NETWORKING
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.validation.names import host_matches, host_subset
from testbed.resources.values import Message
from testbed.resources.virtual_service import HTTPMatchRequest, HTTPRoute, VirtualService

SEMANTICS = {"internal.istio.io/route-semantics": "gateway"}
CONTROLLER = "istio.io/gateway-controller"
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_HTTP_LISTENERS = ("HTTP", "HTTPS")

_Spec = TypeVar("_Spec", bound=Message)
Route = Resource[k8s.HTTPRoute] | Resource[k8s.GRPCRoute]


@dataclass(frozen=True)
class TranslatedDocument(Document):
    """A document that was made of others; ``locate`` leads to where each part was written."""

    origins: Mapping[Path, tuple[Document, Path]] = field(default_factory=dict, repr=False)

    def locate(self, path: Path) -> Location:
        """Where the origin of ``path`` (or of its nearest parent that has one) stands."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                document, origin = self.origins[path[:length]]
                return document.locate(origin)
        return Location(self.file, field=dotted(path))


@dataclass(frozen=True)
class _Rule:
    """One match of one rule, ready, with its place."""

    route: HTTPRoute
    origin: tuple[Document, Path]


def translate(resources: ResourceSet, topology: Topology) -> ResourceSet:
    """``resources`` with the kinds of the Gateway API replaced by Gateways and VirtualServices.

    What is attached to nothing is left out and named in ``ResourceSet.ignored``.  A Gateway is for the lab's
    gateways that carry its name in the label ``gateway.networking.k8s.io/gateway-name``, else for those that its
    ``addresses`` name, else for the first gateway of the lab.
    """
    old = [r.key for r in resources if r.key.group == GATEWAY_API]
    if not old:
        return resources
    notes: list[Problem] = []
    classes = {"istio"} | {c.name for c in resources.of(k8s.GatewayClass) if c.spec.controller_name == CONTROLLER}
    gateways = [g for g in resources.kubernetes_gateways if g.spec.gateway_class_name in classes]
    for other in resources.kubernetes_gateways:
        if other not in gateways:
            message = f"left out: the class {other.spec.gateway_class_name!r} is not Istio's"
            notes.append(
                Problem(other.locate("spec", "gatewayClassName"), message, "write gatewayClassName: istio")
            )
    made: list[Resource[Message]] = []
    for gateway in gateways:
        selector = _selector(gateway, topology)
        made += [_gateway(gateway, i, selector) for i in range(len(gateway.spec.listeners))]
    routes: tuple[Route, ...] = (*resources.http_routes, *resources.grpc_routes)
    hosts: dict[tuple[str, str, str], list[_Rule]] = {}
    services: dict[tuple[str, int | None, str], list[_Rule]] = {}
    for route in routes:
        rules, inside = (
            [_Rule(r, (route.document, path)) for r, path in rules_of(route, resources, topology, mesh=mesh)]
            for mesh in (False, True)
        )
        attached = False
        for parent in route.spec.parent_refs:
            for host in _called(parent, route, resources):
                where = route.namespace, parent.port, host
                services.setdefault(where, []).extend(_on_port(inside, parent.port))
                attached = True
            for listener, gateway in _listeners(parent, route, gateways):
                key = gateway.namespace, listener_name(gateway.name, listener.name)
                for host in _hosts(route.spec.hostnames, listener, gateway.spec.listeners):
                    hosts.setdefault((*key, host), []).extend(rules)
                    attached = True
        if not attached:
            message = "left out: no listener takes this route (name, port, namespace, kind or hostname)"
            notes.append(Problem(route.locate("spec", "parentRefs"), message, "check parentRefs and allowedRoutes"))
    for (namespace, name, host), rules in hosts.items():
        made.append(_virtual_service(namespace, f"{name}~{host}", host, (f"{namespace}/{name}",), rules))
    for (namespace, port, host), rules in services.items():
        # istiod's names: of two for one host the first by name counts, so routes for a port go before the others
        name = "~".join((namespace, *([str(port)] if port else []), host))
        made.append(_virtual_service(namespace, name, host, ("mesh",), rules))
    return resources.without(old).merged(ResourceSet(made, notes))


def _selector(gateway: Resource[k8s.Gateway], topology: Topology) -> dict[str, str]:
    lab = [w for w in topology.workloads if w.kind is ProxyKind.GATEWAY]
    named = [w for w in lab if w.namespace == gateway.namespace and w.labels.get(GATEWAY_NAME) == gateway.name]
    if named or not lab:
        return {GATEWAY_NAME: gateway.name}
    wanted = {a.value.partition(".")[0] for a in gateway.spec.addresses if a.type.endswith("Hostname")}
    return dict(next((w for w in lab if w.name in wanted), lab[0]).labels)


def listener_name(gateway: str, listener: str) -> str:
    """The name of the Gateway that stands for a listener; no user's Gateway can have it."""
    return f"{gateway}~{listener}"


def _gateway(gateway: Resource[k8s.Gateway], index: int, selector: dict[str, str]) -> Resource[Gateway]:
    listener = gateway.spec.listeners[index]
    tls = None
    if listener.tls is not None:
        credentials = tuple(
            f"kubernetes-gateway://{ref.namespace}/{ref.name}"
            if ref.namespace not in ("", gateway.namespace)
            else ref.name
            for ref in listener.tls.certificate_refs
        )
        if listener.tls.mode == "Passthrough":
            tls = ServerTLSSettings(mode=ServerTLSMode.PASSTHROUGH)
        elif len(credentials) == 1:
            tls = ServerTLSSettings(mode=ServerTLSMode.SIMPLE, credential_name=credentials[0])
        else:
            tls = ServerTLSSettings(mode=ServerTLSMode.SIMPLE, credential_names=credentials)
    server = Server(
        port=Port(number=listener.port, protocol=listener.protocol, name=listener.name),
        hosts=(f"*/{listener.hostname or '*'}",),
        tls=tls,
    )
    name = listener_name(gateway.name, listener.name)
    origins = {
        (): (gateway.document, ()),
        ("spec",): (gateway.document, ("spec",)),
        ("spec", "servers", 0): (gateway.document, ("spec", "listeners", index)),
    }
    return _resource("Gateway", name, gateway.namespace, Gateway(servers=(server,), selector=selector), origins)


def _listeners(
    parent: k8s.ParentReference, route: Route, gateways: Iterable[Resource[k8s.Gateway]]
) -> Iterator[tuple[k8s.Listener, Resource[k8s.Gateway]]]:
    """The listeners that a reference attaches a route to, each with its Gateway."""
    if (parent.group, parent.kind) != (GATEWAY_API, "Gateway"):
        return
    for gateway in gateways:
        if (gateway.namespace, gateway.name) != (parent.namespace or route.namespace, parent.name):
            continue
        for listener in gateway.spec.listeners:
            if (
                parent.section_name in ("", listener.name)
                and parent.port in (None, listener.port)
                and listener.protocol in _HTTP_LISTENERS
                and _allowed(listener, gateway.namespace, route)
            ):
                yield listener, gateway


def _called(parent: k8s.ParentReference, route: Route, resources: ResourceSet) -> tuple[str, ...]:
    """The hosts in the mesh that a reference attaches a route to: a Service's, or those of a ServiceEntry."""
    namespace = parent.namespace or route.namespace
    if parent.kind == "Service" and parent.group in ("", "core"):
        return (f"{parent.name}.{namespace}.svc.cluster.local",)
    if (parent.group, parent.kind) == (NETWORKING, "ServiceEntry"):
        named = (namespace, parent.name)
        return next((e.spec.hosts for e in resources.service_entries if (e.namespace, e.name) == named), ())
    return ()


def _left_to_another(host: str, listener: k8s.Listener, others: Iterable[k8s.Listener]) -> bool:
    """Whether a host is a more specific listener's of the same port and protocol, attached to it or not.

    The Gateway API calls it listener isolation; in istiod, ``hostnameAllowedByIsolation``.
    """
    own = listener.hostname
    if own and not own.startswith("*"):
        return False
    names = {o.hostname for o in others if (o.port, o.protocol) == (listener.port, listener.protocol)}
    return any(n and n != own and len(n) >= len(own) and host_subset(host, n) for n in names)


def _allowed(listener: k8s.Listener, namespace: str, route: Route) -> bool:
    allowed = listener.allowed_routes or k8s.AllowedRoutes()
    if allowed.kinds and route.kind not in {kind.kind for kind in allowed.kinds}:
        return False
    rule = allowed.namespaces or k8s.RouteNamespaces()
    match rule.from_:
        case "All":
            return True
        case "Same":
            return route.namespace == namespace
        case "Selector" if rule.selector is not None:
            return _selects_namespace(rule.selector, route.namespace)
    return False


def _selects_namespace(selector: k8s.NamespaceSelector, namespace: str) -> bool:
    """A lab's namespaces have one label, the one that Kubernetes gives to each: its name."""
    labels = {_NAMESPACE_LABEL: namespace}
    for requirement in selector.match_expressions:
        value = labels.get(requirement.key)
        holds = {
            "In": value in requirement.values,
            "NotIn": value not in requirement.values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[requirement.operator]:
            return False
    return selector.match_labels.items() <= labels.items()


def _hosts(hostnames: tuple[str, ...], listener: k8s.Listener, others: Iterable[k8s.Listener]) -> Iterator[str]:
    """What a route's hostnames and a listener's have in common: of each pair, the narrower."""
    for host in hostnames or ("*",):
        other = listener.hostname or "*"
        if host_matches(host, other):
            common = host if host_subset(host, other) else other
            if not _left_to_another(common, listener, others):
                yield common


def _on_port(rules: list[_Rule], port: int | None) -> list[_Rule]:
    if port is None:
        return rules
    out = []
    for rule in rules:
        matches = tuple(m.model_copy(update={"port": port}) for m in rule.route.match) or (
            HTTPMatchRequest(port=port),
        )
        out.append(_Rule(rule.route.model_copy(update={"match": matches}), rule.origin))
    return out


def _virtual_service(
    namespace: str, name: str, host: str, gateways: tuple[str, ...], rules: list[_Rule]
) -> Resource[VirtualService]:
    # the most specific match of all routes for a host comes first; among equals the order of the files
    ordered = sorted(rules, key=lambda rule: _precedence(rule.route))
    spec = VirtualService(hosts=(host,), gateways=gateways, http=tuple(rule.route for rule in ordered))
    origins: dict[Path, tuple[Document, Path]] = {
        ("spec", "http", i): rule.origin for i, rule in enumerate(ordered)
    }
    first = ordered[0].origin[0] if ordered else Document("", {})
    origins |= {(): (first, ()), ("spec",): (first, ("spec",))}
    return _resource("VirtualService", name, namespace, spec, origins)


def _precedence(route: HTTPRoute) -> tuple[int, int, int, int, int]:
    """Exact, prefix, expression; longer first; with a method; more headers; more query parameters."""
    if not route.match:
        return (9, 0, 0, 0, 0)
    match = route.match[0]
    rank = {"exact": 1, "prefix": 2, "regex": 3}.get(match.uri.which(), 4) if match.uri else 4
    text = (match.uri.exact or match.uri.prefix or match.uri.regex or "") if match.uri else ""
    return (rank, -len(text), match.method is None, -len(match.headers), -len(match.query_params))


def _resource(
    kind: str, name: str, namespace: str, spec: _Spec, origins: Mapping[Path, tuple[Document, Path]]
) -> Resource[_Spec]:
    document = TranslatedDocument(origins[()][0].file, {}, {}, origins)
    annotations = SEMANTICS if kind == "VirtualService" else {}
    return Resource(kind, f"{NETWORKING}/v1", name, namespace, spec, {}, annotations, document)
