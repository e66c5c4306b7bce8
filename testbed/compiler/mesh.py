"""The whole mesh: every proxy's files, with all that proxies have in common made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from testbed.compiler import clusters, outbound
from testbed.compiler.gateways import GatewayView, bound_servers
from testbed.compiler.layer4 import Layer4
from testbed.compiler.layout import Layout
from testbed.compiler.locality import Viewer, viewer
from testbed.compiler.memory import CompileCache
from testbed.compiler.protobuf import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    Fragment,
    Fragments,
    discovery_file,
    fragment,
)
from testbed.compiler.receiving import Receiving, receiving
from testbed.compiler.scope import Scope, sidecar_of
from testbed.compiler.security import (
    SecurityInputs,
    peer_modes,
    security_http_filters,
    security_network_filters,
)
from testbed.compiler.sight import Sight
from testbed.compiler.virtualhosts import route_configuration
from testbed.compiler.xdspaths import endpoints_path, routes_path
from testbed.model.proxy import ProxyConfiguration, XdsFile, content_hash
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources.gateway_api import translate
from testbed.resources.resource import ResourceSet


def compile_mesh(
    resources: ResourceSet,
    topology: Topology,
    *,
    layout: Layout | None = None,
    cache: CompileCache | None = None,
    security: SecurityInputs | None = None,
    only: frozenset[str] | None = None,
) -> dict[str, ProxyConfiguration]:
    """What every proxy must have, by workload.

    Pure: equal inputs give equal bytes.  With a ``cache`` kept from an earlier call only what depends on a change
    is made again.  ``only`` limits the answer to some workloads.
    """
    memory = cache if cache is not None else CompileCache()
    mesh = _Mesh(translate(resources, topology), topology, layout or Layout(), memory, security or SecurityInputs())
    wanted = [w for w in topology.workloads if only is None or w.name in only]
    compiled = {w.name: mesh.proxy(w) for w in wanted}
    memory.sweep()
    return compiled


@dataclass(frozen=True)
class _Views:
    """The services of a scope with the rules that hold for them."""

    views: tuple[clusters.View, ...]
    placed: tuple[bool, ...]
    """Of each, whether the caller's place matters."""
    key: tuple[object, ...]


@dataclass(frozen=True)
class _ClusterSet:
    fragments: Fragments
    endpoint_files: Mapping[str, XdsFile]


@dataclass(frozen=True)
class _Listeners:
    fragments: Fragments
    routed: tuple[outbound.Routed, ...]


@dataclass(frozen=True)
class _Mesh(Sight):
    def _views(self, workload: MeshWorkload, seen: Scope) -> _Views:
        sidecar = workload.kind is not ProxyKind.GATEWAY
        labels = self.selector_view(workload)
        key = ("views", seen.services_digest, labels, self.rules_digest, self.registry.digest, self.peers_digest,
               seen.namespace, sidecar)  # fmt: skip

        def build() -> _Views:
            rule_of = self.rule_of(workload)
            views = tuple(
                clusters.View(self.registry, s, rule_of(s), self.disabled(s.namespace), sidecar)
                for s in seen.services
            )
            return _Views(views, tuple(v.place_matters() for v in views), key)

        return self.cache.get(key, build)

    def _cluster_set(self, workload: MeshWorkload, seen: Scope) -> _ClusterSet:
        views = self._views(workload, seen)
        place: tuple[object, ...] = ()
        if any(views.placed):
            place = (str(workload.locality), workload.node, tuple(sorted(workload.labels.items())))

        def build() -> _ClusterSet:
            fragments: list[Fragment] = []
            files: dict[str, XdsFile] = {}
            for view, placed in zip(views.views, views.placed, strict=True):
                for destination in view.destinations():
                    self._cluster(view, destination, workload if placed else None, fragments, files)
            return _ClusterSet(Fragments.of(fragments), files)

        return self.cache.get(("cluster-set", views.key, place), build)

    def _cluster(
        self,
        view: clusters.View,
        destination: clusters.Destination,
        caller: MeshWorkload | None,
        fragments: list[Fragment],
        files: dict[str, XdsFile],
    ) -> None:
        seen_from = viewer(view.policy(destination), caller) if caller is not None else Viewer()
        rule = view.rule.digest if view.rule is not None else ""
        content = self.registry.content(view.service)
        takes = tuple(map(self.takes_tls, self.registry.endpoints(view.service, destination.port)))
        key = (content, rule, destination.port.number, destination.subset, view.peer_disabled, view.sidecar,
               seen_from, takes)  # fmt: skip

        def build() -> tuple[Fragment | None, XdsFile | None]:
            made = clusters.outbound(view, destination, seen_from, self.takes_tls)
            if made is None or not clusters.has_endpoint_file(view, destination):
                return made, None
            assignment = view.load_assignment(destination, seen_from, self.takes_tls)
            path = endpoints_path(made.name)
            resource = fragment(made.name, assignment, ENDPOINTS)
            return made, discovery_file(path, ENDPOINTS, [Fragments.of([resource])])

        made, file = self.cache.get(("cluster", key), build)
        if made is not None:
            fragments.append(made)
        if file is not None:
            files[file.path] = file

    def _outbound(self, workload: MeshWorkload, seen: Scope) -> _Listeners:
        client, _ = self.logging(workload)
        labels = dict(seen.source_view(workload))
        layer4 = any(found for _, _, found in seen.outbound_key)
        key = ("outbound", seen.services_digest, seen.outbound_key, seen.namespace, seen.allow_any,
               repr(seen.egress_proxy), tuple(labels.items()) if layer4 else (), self.selector_view(workload),
               self.rules_digest, client)  # fmt: skip

        def build() -> _Listeners:
            logs = client.logs()
            around = Layer4(seen.by_host.get, self.rule_of(workload), logs)
            entries = outbound.entries(seen, labels, around)
            made = [outbound.listener(e, seen, logs) for e in entries]
            made.append(outbound.virtual_outbound(seen, logs))
            return _Listeners(
                Fragments.of(fragment(m.name, m, LISTENER) for m in made), tuple(outbound.routed(entries))
            )

        return self.cache.get(key, build)

    # --- one proxy --------------------------------------------------------------------------------------------

    def proxy(self, workload: MeshWorkload) -> ProxyConfiguration:
        """Everything that the workload's proxy reads, secrets left out."""
        files = self._gateway(workload) if workload.kind is ProxyKind.GATEWAY else self._sidecar(workload)
        return ProxyConfiguration(workload.name, files)

    def _security_key(self, workload: MeshWorkload) -> str:
        policies = (*self.resources.authorization_policies, *self.resources.request_authentications)
        everything = self._policies_digest

        def build() -> str:
            mine = [p.digest for p in policies if p.namespace in (workload.namespace, self.topology.root_namespace)
                    and _may_be_for(p.spec, workload)]  # fmt: skip
            return content_hash(*mine)

        return self.cache.get(("security", everything, workload.name, self.topology_digest), build)

    @cached_property
    def _inputs_digest(self) -> str:
        return content_hash(repr(self.inputs))

    @cached_property
    def _policies_digest(self) -> str:
        policies = (*self.resources.authorization_policies, *self.resources.request_authentications)
        return content_hash(*(p.digest for p in policies))

    def _sidecar(self, workload: MeshWorkload) -> dict[str, XdsFile]:
        seen = self.scope(workload)
        cluster_set = self._cluster_set(workload, seen)
        listeners = self._outbound(workload, seen)
        taken = self._receiving(workload)
        fixed = self.cache.get("fixed", clusters.fixed)
        files = dict(cluster_set.endpoint_files)
        files["cds.json"] = self._file(
            "cds.json", CLUSTER, (cluster_set.fragments, fixed, taken.clusters), workload
        )
        outward = _besides(listeners.fragments, taken.listeners)
        files["lds.json"] = self._file("lds.json", LISTENER, (outward, taken.listeners), workload)
        kept = {f.name for f in outward.items}
        for routed in listeners.routed:
            if routed.listener in kept:
                file = self._routes(workload, seen, routed)
                files[file.path] = file
        return files

    def _receiving(self, workload: MeshWorkload) -> Receiving:
        _, server = self.logging(workload)
        sidecar = sidecar_of(self.resources, workload, self.topology)
        own = self.registry.services_of(workload)
        rules = {s.host: self.rules.of(s, workload.namespace, None) for s in own}
        key = ("receiving", workload.name, self.registry.digest, self._security_key(workload), self.peers_digest,
               sidecar.digest if sidecar else "", server, tuple(r.digest for r in rules.values() if r),
               self._inputs_digest)  # fmt: skip

        def build() -> Receiving:
            return receiving(
                workload,
                self.topology,
                self.registry,
                sidecar.spec if sidecar else None,
                rules,
                peer_modes(self.resources, workload, self.topology),
                security_http_filters(self.resources, workload, self.topology, self.inputs),
                security_network_filters(self.resources, workload, self.topology, self.inputs),
                server.logs(),
            )

        return self.cache.get(key, build)

    def _routes(self, workload: MeshWorkload, seen: Scope, routed: outbound.Routed) -> XdsFile:
        source = seen.source_view(workload)
        egress = tuple(e.digest for e in seen.egress)
        key = ("rds", routed.port, routed.proxy, routed.host, seen.namespace, egress, seen.services_digest,
               source, self.rules_digest, self.selector_view(workload), seen.allow_any,
               repr(seen.egress_proxy))  # fmt: skip

        def build() -> XdsFile:
            rules_key = self.rules_digest, self.selector_view(workload)
            rule_of = self.rule_of(workload)
            made = route_configuration(
                seen, routed.port, source, rule_of, rules_key, self.cache, proxy=routed.proxy, only=routed.host
            )
            return discovery_file(routes_path(made.name), ROUTES, [Fragments.of([made])])

        return self.cache.get(key, build)

    def _gateway(self, workload: MeshWorkload) -> dict[str, XdsFile]:
        seen = self.scope(workload)
        cluster_set = self._cluster_set(workload, seen)
        client, _ = self.logging(workload)
        security = (
            security_http_filters(self.resources, workload, self.topology, self.inputs),
            security_network_filters(self.resources, workload, self.topology, self.inputs),
        )
        around = Layer4(seen.by_host.get, self.rule_of(workload), client.logs(), security[1])
        view = GatewayView(
            workload,
            bound_servers(self.resources, workload),
            self.routed,
            seen,
            self.rule_of(workload),
            around,
            security[0],
        )
        fixed = self.cache.get("fixed-gateway", lambda: Fragments.of([clusters.blackhole()]))
        files = dict(cluster_set.endpoint_files)
        files["cds.json"] = self._file("cds.json", CLUSTER, (cluster_set.fragments, fixed), workload)
        listeners = Fragments.of(fragment(made.name, made, LISTENER) for made in view.listeners())
        files["lds.json"] = self._file("lds.json", LISTENER, (listeners,), workload)
        for routes in view.route_configurations(self.cache):
            path = routes_path(routes.name)
            files[path] = discovery_file(path, ROUTES, [Fragments.of([routes])])
        return files

    def _file(self, path: str, type_url: str, parts: Sequence[Fragments], workload: MeshWorkload) -> XdsFile:
        key = "file", path, workload.name, self.layout, tuple(p.digest for p in parts)
        return self.cache.get(key, lambda: discovery_file(path, type_url, parts, self.layout.marks(workload)))


def _besides(outward: Fragments, inward: Fragments) -> Fragments:
    """Without what a Sidecar's ingress listens on itself: Envoy takes no two listeners of one address."""
    own = {f.name for f in inward.items}
    if all(f.name not in own for f in outward.items):
        return outward
    return Fragments.of(f for f in outward.items if f.name not in own)


def _may_be_for(spec, workload: MeshWorkload) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001
    selector = spec.selector
    return selector is None or all(workload.labels.get(k) == v for k, v in selector.match_labels.items())
