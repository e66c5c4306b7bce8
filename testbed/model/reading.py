"""An inventory's text to a checked :class:`Inventory`, and an inventory to the mesh's :class:`Topology`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from testbed.documents import Document, Path, parse, validate
from testbed.errors import BadInput, Problem, bad_input
from testbed.model.clusters import cluster_findings, first_service_address, router_address
from testbed.model.inventory import MOST_REPLICAS, Gateway, Inventory, Port, Workload, walk_names
from testbed.model.topology import Locality, MeshService, MeshWorkload, ProxyKind, ServicePort, Topology

WORKLOADS_START = 1  # workload addresses count down from the end of the mesh network, nodes up from 10


def read_inventory(text: str, file: str) -> Inventory:
    """Parse and check.  Raises :class:`BadInput` with every problem found, each with line and field."""
    documents = parse(text, file)
    if len(documents) != 1:
        raise bad_input(file, f"an inventory is one YAML document; this file has {len(documents)}")
    document = documents[0]
    inventory = validate(Inventory, document)
    problems = [Problem(document.locate(path), message, hint) for path, message, hint in _findings(inventory)]
    if problems:
        raise BadInput(sorted(problems, key=lambda p: p.location))
    return inventory


def check_fits(inventory: Inventory, document: Document | None, memory: int, file: str) -> None:
    """Refuse an inventory whose nodes want more memory (bytes) than the host has."""
    wanted = sum(n.memory for n in inventory.nodes)
    if wanted > memory:
        where = document.locate(("nodes",)) if document else file
        text = f"the nodes want {wanted / 2**30:.1f} GiB of memory, the host has {memory / 2**30:.1f} GiB"
        raise bad_input(where, text, "give the nodes less memory, or drop some")


Finding = tuple[Path, str, str]


def _findings(inventory: Inventory) -> Iterator[Finding]:
    yield from _duplicates(inventory)
    yield from _networks(inventory)
    yield from _references(inventory)
    yield from _placements(inventory)
    yield from cluster_findings(inventory)


def _duplicates(inventory: Inventory) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for name, path in walk_names(inventory):
        if name in seen:
            yield path, f"the {name} is declared twice", "rename or remove one of them"
        seen[name] = path
    numbers: dict[int, str] = {}
    for i, node in enumerate(inventory.nodes):
        if node.number is not None and node.number in numbers:
            yield (
                ("nodes", i, "number"),
                f"number {node.number} (and so its addresses) is node {numbers[node.number]}'s already",
                "pick a free number from 10 to 200",
            )
        if node.number is not None:
            numbers[node.number] = node.name
    instances: dict[str, Path] = {}
    for name, path in _instance_names(inventory):
        if name in instances:
            yield path, f"two workloads would be called {name}", "give one of them another version or name"
        instances[name] = path


def _instance_names(inventory: Inventory) -> Iterator[tuple[str, Path]]:
    for i, workload in enumerate(inventory.workloads):
        for replica in range(workload.replicas):
            yield instance_name(workload, replica), ("workloads", i, "version")
    for i, gateway in enumerate(inventory.gateways):
        yield gateway.name, ("gateways", i, "name")


def _networks(inventory: Inventory) -> Iterator[Finding]:
    management, mesh = inventory.networks.management, inventory.networks.mesh
    services = IPv4Network("240.240.0.0/16")
    if management.overlaps(mesh):
        yield ("networks", "mesh"), f"{mesh} overlaps the management network {management}", "use separate networks"
    for name, network in (("management", management), ("mesh", mesh)):
        if network.overlaps(services):
            yield ("networks", name), f"{network} overlaps {services}, which services' addresses come from", ""
        for i, node in enumerate(inventory.nodes):
            number = inventory.numbers()[node.name]
            if number >= network.num_addresses - 1:
                yield ("nodes", i, "number"), f"number {number} lies outside {network}", "use a larger network"
    total = sum(w.replicas for w in inventory.workloads) + len(inventory.gateways)
    if mesh.num_addresses - 2 - total <= max(inventory.numbers().values(), default=0):
        yield ("networks", "mesh"), f"{mesh} has no room for {total} workloads beside the nodes", "use a larger one"


def _references(inventory: Inventory) -> Iterator[Finding]:
    nodes = {n.name for n in inventory.nodes}
    hosts = {h.name for h in inventory.hosts}
    services = {(s.namespace, s.name) for s in inventory.services}
    if len(inventory.hosts) > 1:
        yield ("hosts", 1), "more than one hypervisor host is not supported yet", "keep one host"
    for i, node in enumerate(inventory.nodes):
        if node.host not in hosts:
            yield ("nodes", i, "host"), f"unknown host {node.host!r}", f"one of: {', '.join(sorted(hosts))}"
    for i, workload in enumerate(inventory.workloads):
        for name in workload.node:
            if name not in nodes:
                yield ("workloads", i, "node"), f"unknown node {name!r}", f"one of: {', '.join(sorted(nodes))}"
        if workload.program != "none" and (workload.namespace, workload.service) not in services:
            known = ", ".join(sorted(s for _, s in services)) or "none declared"
            yield (
                ("workloads", i, "service"),
                f"unknown service {workload.service!r} in namespace {workload.namespace!r}",
                f"known services: {known}",
            )
    for i, gateway in enumerate(inventory.gateways):
        if gateway.node not in nodes:
            yield ("gateways", i, "node"), f"unknown node {gateway.node!r}", f"one of: {', '.join(sorted(nodes))}"


def _placements(inventory: Inventory) -> Iterator[Finding]:
    image = inventory.image
    if sum(source is not None for source in (image.recipe, image.url, image.path)) != 1:
        yield ("image",), "exactly one of recipe, url and path says what nodes start from", "write image: debian-12"
    for i, service in enumerate(inventory.services):
        numbers = [p.port for p in service.ports]
        for j, port in enumerate(service.ports):
            if numbers.count(port.port) > 1:
                yield ("services", i, "ports", j, "port"), f"port {port.port} is declared twice", ""


def instance_name(workload: Workload, replica: int) -> str:
    """``reviews-v1`` for the first replica, ``reviews-v1-2`` for the second: a name never changes by scaling."""
    base = f"{workload.service}-{workload.version}"
    return base if replica == 0 else f"{base}-{replica + 1}"


@dataclass(frozen=True)
class Instance:
    """One instance of a declared workload."""

    workload: Workload
    name: str
    node: str
    place: int
    """Its address is so many below the highest one that workloads have."""


def instances(inventory: Inventory, scale: Mapping[str, int] = MappingProxyType({})) -> Iterator[Instance]:
    """Every instance that there shall be; ``scale``: workload (its first instance's name) -> how many instead.

    The place of an instance is the same whatever else is scaled: those that the inventory declares come first,
    what is added to them is dealt out behind, one to each workload in turn.
    """
    declared = len(inventory.gateways)
    behind = declared + sum(w.replicas for w in inventory.workloads)
    for index, workload in enumerate(inventory.workloads):
        for replica in range(scale.get(instance_name(workload, 0), workload.replicas)):
            more = replica - workload.replicas
            place = declared + replica if more < 0 else behind + index + more * len(inventory.workloads)
            node = workload.node[replica % len(workload.node)]
            yield Instance(workload, instance_name(workload, replica), node, place)
        declared += workload.replicas


def nodes_of(inventory: Inventory, name: str) -> tuple[str, ...]:
    """Where instances of the workload ``name`` are; none of a name that the inventory has not."""
    return next((tuple(w.node) for w in inventory.workloads if instance_name(w, 0) == name), ())


def require_scale(inventory: Inventory, name: str, replicas: int, file: str) -> None:
    """Raise BadInput unless the workload ``name`` can have so many instances."""
    names = [instance_name(w, 0) for w in inventory.workloads]
    if name not in names:
        raise bad_input(file, f"the inventory has no workload {name!r}", f"one of: {', '.join(sorted(names))}")
    if not 0 <= replicas <= MOST_REPLICAS:
        raise bad_input(name, f"{replicas} instances are not possible", f"give a number from 0 to {MOST_REPLICAS}")
    made = list(instances(inventory, {name: replicas}))
    taken = {i.name for i in made} | {g.name for g in inventory.gateways}
    if len(taken) < len(made) + len(inventory.gateways):
        raise bad_input(name, "an instance would be called as another workload is", "give fewer")
    highest = int(inventory.networks.mesh.broadcast_address) - WORKLOADS_START
    nodes = [int(inventory.mesh_address(n.name)) for n in inventory.nodes]
    if inventory.cluster.api_address is not None:
        nodes.append(int(router_address(inventory)))
    if highest - max((i.place for i in made), default=0) <= max(nodes):
        mesh = inventory.networks.mesh
        raise bad_input(name, f"{mesh} has no room for {replicas} instances", "give fewer, or use a larger network")


def _ports(ports: list[Port]) -> tuple[ServicePort, ...]:
    return tuple(ServicePort(p.name, p.port, p.protocol_or_default, p.target_port or p.port) for p in ports)


def topology_of(inventory: Inventory, scale: Mapping[str, int] = MappingProxyType({})) -> Topology:
    """The mesh that the inventory describes.  Addresses follow from names' order and never from what runs.

    Services get addresses from 240.240.0.0/16 in order, in a cluster from its own network of services.  A
    workload's address counts down from the end of the mesh network by its place in the file, so it doesn't collide
    with the nodes', which count up.
    """
    first = IPv4Address("240.240.0.1")
    if inventory.mesh.backend == "istio":
        first = first_service_address(inventory)
    services = tuple(
        MeshService(s.name, s.namespace, first + i, _ports(s.ports), {"app": s.name})
        for i, s in enumerate(inventory.services)
    )
    ports = {(s.namespace, s.name): s.ports for s in services}
    localities = {n.name: Locality.parse(n.locality) for n in inventory.nodes}
    ambient = {n.name for n in inventory.nodes if n.cluster is not None and inventory.mesh.is_ambient}
    workloads: list[MeshWorkload] = []
    top = int(inventory.networks.mesh.broadcast_address) - WORKLOADS_START
    for gateway in inventory.gateways:
        workloads.append(_gateway(gateway, localities, top - len(workloads)))
    for instance in instances(inventory, scale):
        declared = instance.workload
        workloads.append(
            MeshWorkload(
                name=instance.name,
                namespace=declared.namespace,
                service_account=declared.service_account or declared.service,
                labels={"app": declared.service, "version": declared.version, **declared.labels},
                address=IPv4Address(top - instance.place),
                node=instance.node,
                locality=localities[instance.node],
                kind=ProxyKind.ZTUNNEL if instance.node in ambient else ProxyKind.SIDECAR,
                ports=ports.get((declared.namespace, declared.service), ()),
                service=declared.service if (declared.namespace, declared.service) in ports else "",
            )
        )
    return Topology(services, tuple(workloads), inventory.mesh.trust_domain)


def _gateway(gateway: Gateway, localities: dict[str, Locality], number: int) -> MeshWorkload:
    return MeshWorkload(
        name=gateway.name,
        namespace=gateway.namespace,
        service_account=gateway.service_account or gateway.name,
        labels=dict(gateway.labels),
        address=IPv4Address(number),
        node=gateway.node,
        locality=localities[gateway.node],
        kind=ProxyKind.GATEWAY,
        ports=_ports(gateway.ports),
    )
