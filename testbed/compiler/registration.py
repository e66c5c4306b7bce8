"""Fills the registry: the lab's services and workloads, and what ServiceEntry and WorkloadEntry add to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address

from testbed.compiler.names import is_wildcard
from testbed.compiler.services import UNSPECIFIED, Endpoint, Registry, Resolution, Service, is_address, protocol_of
from testbed.model.proxy import content_hash
from testbed.model.topology import Locality, MeshService, MeshWorkload, ProxyKind, ServicePort, Topology
from testbed.resources.resource import Resource, ResourceSet
from testbed.resources.service_entry import Location as Place
from testbed.resources.service_entry import Resolution as EntryResolution
from testbed.resources.service_entry import ServiceEntry, WorkloadEntry
from testbed.resources.values import selects

TLS_MODE_LABEL = "security.istio.io/tlsMode"


def registry(resources: ResourceSet, topology: Topology) -> Registry:
    """Put the lab's services and the entries of ``resources`` together."""
    # by one label each: comparing every service with every workload would be quadratic
    labelled: dict[tuple[str, str, str], list[MeshWorkload]] = {}
    for workload in topology.workloads:
        for label, value in workload.labels.items():
            labelled.setdefault((workload.namespace, label, value), []).append(workload)
    services: list[Service] = []
    endpoints: dict[tuple[str, str], Callable[[ServicePort], Sequence[Endpoint]]] = {}
    for mesh_service in topology.services:
        service = _of_lab(mesh_service)
        first = next(iter(mesh_service.selector.items()), ("", ""))  # without a selector nobody is behind it
        candidates = labelled.get((service.namespace, *first), ())
        members = [w for w in candidates if selects(mesh_service.selector, w.labels)]
        services.append(service)
        # as a Kubernetes Service does, it picks WorkloadEntries of its namespace too
        joined = [
            r
            for r in resources.workload_entries
            if r.namespace == service.namespace
            and mesh_service.selector
            and selects(mesh_service.selector, _labels(r))
        ]
        endpoints[service.namespace, service.host] = _memoized(
            _LabEndpoints(tuple(members), tuple(joined), topology)
        )
    chosen = {(s.namespace, s.host): s for s in services}
    taken = {str(s.address) for s in topology.services}
    entries = [(s, r) for r in resources.service_entries for s in _of_entry(r, topology.service_range, taken)]
    for service, resource in sorted(entries, key=lambda found: (found[0].host, found[0].namespace)):
        key = service.namespace, service.host
        if key in endpoints:
            # of several in a namespace the first (or the lab's own) counts, and where its endpoints are known here,
            # those of the others join them
            if chosen[key].resolution is Resolution.STATIC:
                more = _EntryEndpoints(resource, service, resources, topology)
                endpoints[key] = _memoized(_Joined(endpoints[key], more))
            continue
        chosen[key] = service
        services.append(service)
        endpoints[key] = _memoized(_EntryEndpoints(resource, service, resources, topology))
    by_host: dict[str, list[Service]] = {}
    for service in services:
        by_host.setdefault(service.host, []).append(service)
    digest = content_hash(
        *(s.digest for s in services),
        *(r.digest for r in resources.service_entries),
        *(r.digest for r in resources.workload_entries),
        repr(topology.workloads),
    )
    return Registry(
        tuple(services), topology.trust_domain, {h: tuple(s) for h, s in by_host.items()}, digest, endpoints
    )


def service_addresses(resources: ResourceSet, topology: Topology) -> dict[str, str]:
    """Every host that can be called by name, with the address that it has to resolve to in the guests.

    ServiceEntry hosts without ``addresses`` get one from the lab's range, as Istio allots them; wildcard hosts
    have none.
    """
    found: dict[str, str] = {}
    for service in registry(resources, topology).services:
        if service.addresses and not is_wildcard(service.host) and "/" not in service.address:
            found.setdefault(service.host, service.address)
    return found


def _of_lab(service: MeshService) -> Service:
    return Service(service.host, service.namespace, service.ports, (str(service.address),))


def _of_entry(resource: Resource[ServiceEntry], pool: IPv4Network, taken: set[str]) -> Iterator[Service]:
    entry = resource.spec
    # nothing is UDP: istiod makes no cluster for it
    ports = tuple(
        ServicePort(p.name, p.number, protocol_of(p.protocol), p.target_port or p.number)
        for p in entry.ports
        if p.protocol.upper() != "UDP"
    )
    resolution = {
        EntryResolution.STATIC: Resolution.STATIC,
        EntryResolution.DNS: Resolution.DNS,
        EntryResolution.DNS_ROUND_ROBIN: Resolution.DNS_ROUND_ROBIN,
    }.get(entry.resolution, Resolution.NONE)
    for host in entry.hosts:
        addresses = entry.addresses
        if not addresses and resolution is not Resolution.NONE and not is_wildcard(host):
            addresses = (_allot(host, pool, taken),)
        yield Service(
            host.lower(),
            resource.namespace,
            ports,
            addresses,
            resolution,
            entry.location is Place.MESH_EXTERNAL,
            entry.export_to or ("*",),
            entry.subject_alt_names,
            is_entry=True,
        )


def _allot(host: str, pool: IPv4Network, taken: set[str]) -> str:
    """An address that depends on the name alone unless two names collide, so that others' entries don't move it."""
    start = int.from_bytes(hashlib.sha256(host.encode()).digest()[:8], "big")
    size = pool.num_addresses - 2
    for step in range(size):
        address = str(pool.network_address + 1 + (start + step) % size)
        if address not in taken:
            taken.add(address)
            return address
    return UNSPECIFIED


def _memoized(
    source: Callable[[ServicePort], Sequence[Endpoint]],
) -> Callable[[ServicePort], Sequence[Endpoint]]:
    known: dict[ServicePort, Sequence[Endpoint]] = {}

    def endpoints(port: ServicePort) -> Sequence[Endpoint]:
        if port not in known:
            known[port] = source(port)
        return known[port]

    return endpoints


def _of_workload(workload: MeshWorkload, port: int, trust_domain: str) -> Endpoint:
    return Endpoint(
        str(workload.address),
        port,
        workload.labels,
        workload.locality,
        1,
        workload.namespace,
        workload.spiffe_id(trust_domain),
        workload.kind is not ProxyKind.GATEWAY,
        workload,
    )


@dataclass(frozen=True)
class _LabEndpoints:
    members: tuple[MeshWorkload, ...]
    joined: tuple[Resource[WorkloadEntry], ...]
    topology: Topology

    def __call__(self, port: ServicePort) -> Sequence[Endpoint]:
        found = []
        for workload in self.members:
            own = next((p.target for p in workload.ports if p.name == port.name), port.target)
            found.append(_of_workload(workload, own, self.topology.trust_domain))
        # names are left out: only the proxies of a ServiceEntry by DNS look them up
        found += [
            _of_workload_entry(r.spec, r.namespace, _labels(r), port, self.topology)
            for r in self.joined
            if is_address(r.spec.address)
        ]
        return sorted(found, key=lambda e: (_numeric(e.address), e.port))


def _numeric(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


def _labels(resource: Resource[WorkloadEntry]) -> dict[str, str]:
    return {**resource.labels, **resource.spec.labels}


@dataclass(frozen=True)
class _Joined:
    """A service, and another ServiceEntry for its host in its namespace: istiod merges their endpoints."""

    first: Callable[[ServicePort], Sequence[Endpoint]]
    entry: _EntryEndpoints

    def __call__(self, port: ServicePort) -> Sequence[Endpoint]:
        listed = next((p for p in self.entry.service.ports if p.number == port.number), None)
        more = self.entry(listed) if listed is not None else ()
        found = list(self.first(port))
        known = {(e.address, e.port) for e in found}
        found += [e for e in more if is_address(e.address) and (e.address, e.port) not in known]
        return sorted(found, key=lambda e: (_numeric(e.address), e.port))


@dataclass(frozen=True)
class _EntryEndpoints:
    resource: Resource[ServiceEntry]
    service: Service
    resources: ResourceSet
    topology: Topology

    def __call__(self, port: ServicePort) -> Sequence[Endpoint]:
        return [*self._written(port), *self._selected(port)]

    def _written(self, port: ServicePort) -> Iterable[Endpoint]:
        entry, service = self.resource.spec, self.service
        if entry.endpoints:
            return [self._of(e, port, e.labels) for e in entry.endpoints]
        if service.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN) and entry.workload_selector is None:
            host = WorkloadEntry(address=service.host)
            return [self._of(host, port, {})]
        return ()

    def _selected(self, port: ServicePort) -> Iterable[Endpoint]:
        selector = self.resource.spec.workload_selector
        if selector is None:
            return ()
        found = [
            self._of(r.spec, port, _labels(r))
            for r in self.resources.workload_entries
            if r.namespace == self.resource.namespace and selects(selector.labels, _labels(r))
        ]
        # a ServiceEntry selects workloads of the lab (pods, in Istio) as well
        lab = [
            _of_workload(w, port.target, self.topology.trust_domain)
            for w in self.topology.workloads
            if w.namespace == self.resource.namespace and selects(selector.labels, w.labels)
        ]
        return [*found, *sorted(lab, key=lambda e: ip_address(e.address))]

    def _of(self, entry: WorkloadEntry, port: ServicePort, labels: Mapping[str, str]) -> Endpoint:
        return _of_workload_entry(entry, self.resource.namespace, labels, port, self.topology)


def _of_workload_entry(
    entry: WorkloadEntry, namespace: str, labels: Mapping[str, str], port: ServicePort, topology: Topology
) -> Endpoint:
    account = entry.service_account
    # an entry at the address of a workload of the lab is that workload
    workload = next((w for w in topology.workloads if str(w.address) == entry.address), None)
    # who has an identity takes mutual TLS, unless the label says otherwise (getTLSModeFromWorkloadEntry)
    mode = labels.get(TLS_MODE_LABEL, "istio" if account else "")
    return Endpoint(
        entry.address,
        entry.ports.get(port.name, port.target),
        labels,
        Locality.parse(entry.locality),
        entry.weight or 1,
        namespace,
        f"spiffe://{topology.trust_domain}/ns/{namespace}/sa/{account}" if account else "",
        mode == "istio",
        workload,
    )
