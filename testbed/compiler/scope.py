"""What a proxy gets to see: services and VirtualServices, limited by ``exportTo`` and by its Sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from testbed.compiler.names import is_subset, is_wildcard, matches
from testbed.compiler.services import Registry, Service
from testbed.compiler.virtualservices import RoutedHosts, ranked
from testbed.model.proxy import content_hash
from testbed.model.topology import MeshWorkload, Topology
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.sidecar import IstioEgressListener, OutboundTrafficPolicyMode, Sidecar
from testbed.resources.values import Destination, selects


@dataclass(frozen=True)
class Egress:
    """What can be called through one of a Sidecar's egress listeners (or the only one, without a Sidecar)."""

    declared: IstioEgressListener | None
    """``None`` or without a port: for every port that no other listener has."""
    services: tuple[Service, ...]
    virtual_services: tuple[RoutedHosts, ...]
    most_specific: Mapping[str, RoutedHosts]
    """By the host of a service: the VirtualService that speaks most specifically of it."""
    digest: str
    services_digest: str

    @property
    def port(self) -> int:
        """The port that it is for; 0 for all that are left."""
        return self.declared.port.number if self.declared and self.declared.port else 0


@dataclass(frozen=True)
class Scope:
    """Everything that proxies of one namespace under one Sidecar see."""

    namespace: str
    egress: tuple[Egress, ...]
    services: tuple[Service, ...]
    by_host: Mapping[str, Service]
    allow_any: bool
    egress_proxy: Destination | None
    source_labels: tuple[str, ...]
    """Keys of the caller's labels that some condition asks for."""
    services_digest: str
    outbound_key: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    """All that outbound listeners depend on here: what was declared, and VirtualServices that route connections."""

    def source_view(self, workload: MeshWorkload) -> tuple[tuple[str, str], ...]:
        """The workload's labels as far as they matter."""
        return tuple((k, workload.labels[k]) for k in self.source_labels if k in workload.labels)

    def egress_for(self, port: int) -> Egress | None:
        """The listener for a port: its own, else the one for all that are left."""
        general = None
        for egress in self.egress:
            if egress.port == port:
                return egress
            if not egress.port:
                general = egress
        return general


def sidecar_of(resources: ResourceSet, workload: MeshWorkload, topology: Topology) -> Resource[Sidecar] | None:
    """The Sidecar for a workload: one that selects it, the namespace's, the root namespace's."""
    namespace = mesh = None
    for resource in resources.sidecars:
        selector = resource.spec.workload_selector
        if resource.namespace == workload.namespace:
            if selector is not None and selector.labels:
                if selects(selector.labels, workload.labels):
                    return resource
            else:
                namespace = namespace or resource
        elif resource.namespace == topology.root_namespace and (selector is None or not selector.labels):
            mesh = mesh or resource
    return namespace or mesh


def scope(
    namespace: str, sidecar: Resource[Sidecar] | None, registry: Registry, routed: Sequence[RoutedHosts]
) -> Scope:
    """What is visible from a namespace, under a Sidecar if there is one."""
    visible = [s for s in registry.services if s.visible_from(namespace)]
    mesh = _mesh_virtual_services(routed, namespace)
    declared = sidecar.spec.egress if sidecar is not None else ()
    if declared:
        egress = tuple(_limited(e, namespace, visible, mesh) for e in declared)
    else:
        egress = (_egress(None, _one_per_host(visible, namespace), mesh),)
    services: dict[str, Service] = {}
    for listener in egress:
        for service in listener.services:
            services[service.host] = _joined(services.get(service.host), service)
    for listener in egress:
        for routes in listener.virtual_services:
            for host in routes.destinations:
                # what a visible VirtualService sends to gets a cluster, imported or not
                if host not in services and (found := registry.lookup(host, namespace)) is not None:
                    services[host] = found
    policy = sidecar.spec.outbound_traffic_policy if sidecar is not None else None
    keys = {k for e in egress for v in e.virtual_services for k in v.source_labels}
    ordered = tuple(services.values())
    return Scope(
        namespace,
        egress,
        ordered,
        services,
        # the mesh's default, when no Sidecar says otherwise; in a Sidecar, an empty policy is REGISTRY_ONLY
        policy is None or policy.mode is OutboundTrafficPolicyMode.ALLOW_ANY,
        policy.egress_proxy if policy is not None else None,
        tuple(sorted(keys)),
        content_hash(namespace, *(s.digest for s in ordered)),
        tuple(
            (
                repr(e.declared),
                tuple(s.digest for s in e.services) if e.declared else (),
                tuple(v.digest for v in e.virtual_services if v.tcp or v.tls),
            )
            for e in egress
        ),
    )


def _mesh_virtual_services(routed: Iterable[RoutedHosts], namespace: str) -> tuple[RoutedHosts, ...]:
    """Those for sidecars there, those that count more first."""
    return tuple(ranked((r for r in routed if "mesh" in r.gateways and r.visible_from(namespace)), namespace))


def _one_per_host(services: Iterable[Service], namespace: str) -> tuple[Service, ...]:
    """Of services with the same host, the namespace's own counts, then the lab's over a ServiceEntry's."""
    chosen: dict[str, Service] = {}
    for service in services:
        other = chosen.get(service.host)
        if (
            other is None
            or service.namespace == namespace
            or (other.namespace != namespace and other.is_entry and not service.is_entry)
        ):
            chosen[service.host] = service
    return tuple(chosen.values())


def _limited(
    declared: IstioEgressListener, namespace: str, visible: Iterable[Service], mesh: Iterable[RoutedHosts]
) -> Egress:
    hosts: dict[str, list[str]] = {}
    for entry in declared.hosts:
        owner, _, host = entry.partition("/")
        hosts.setdefault(namespace if owner == "." else owner, []).append(host.lower())

    def wanted(owner: str) -> list[str]:
        return hosts.get(owner, []) + hosts.get("*", [])

    number = declared.port.number if declared.port and declared.port.protocol.upper() != "HTTP_PROXY" else 0
    services = [
        _on_port(s, number)
        for s in visible
        if any(is_subset(s.host, h) for h in wanted(s.namespace)) and (not number or s.port(number) is not None)
    ]
    routed = [v for v in mesh if any(matches(mine, h) for mine in v.hosts for h in wanted(v.namespace))]
    return _egress(declared, _one_per_host(services, namespace), tuple(routed))


def _joined(known: Service | None, service: Service) -> Service:
    """A service that several listeners let through, each perhaps one port of it: with the ports of all."""
    if known is None or known.namespace != service.namespace:
        return known or service
    missing = tuple(p for p in service.ports if known.port(p.number) is None)
    return replace(known, ports=known.ports + missing) if missing else known


def _on_port(service: Service, number: int) -> Service:
    """The service with that port only."""
    port = service.port(number) if number else None
    return service if port is None or len(service.ports) == 1 else replace(service, ports=(port,))


def _egress(
    declared: IstioEgressListener | None, services: tuple[Service, ...], routed: tuple[RoutedHosts, ...]
) -> Egress:
    exact: dict[str, RoutedHosts] = {}
    wildcard: dict[str, RoutedHosts] = {}
    for routes in routed:
        for host in routes.hosts:
            (wildcard if is_wildcard(host) else exact).setdefault(host, routes)
    by_length = sorted(wildcard, key=len, reverse=True)
    most_specific = {}
    for service in services:
        found = exact.get(service.host)
        if found is None and by_length:
            pattern = next((w for w in by_length if is_subset(service.host, w)), None)
            found = wildcard[pattern] if pattern is not None else None
        if found is not None:
            most_specific[service.host] = found
    called = content_hash(*(s.digest for s in services))
    digest = content_hash(repr(declared), called, *(v.digest for v in routed))
    return Egress(declared, services, routed, most_specific, digest, called)
