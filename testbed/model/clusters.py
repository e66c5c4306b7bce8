"""What an inventory says of its cluster and can't mean: findings, each with its place and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from testbed.documents import Path
from testbed.model.inventory import Inventory, Registry

Finding = tuple[Path, str, str]

API_PORT = 6443

SERVER_ROLE = "node-role.kubernetes.io/control-plane"
"""Kubernetes' name for servers: their label, which k3s sets to ``true``, and beside agents their taint, with the
effect PreferNoSchedule: pods go there when no agent is left for them."""

SERVER_MEMORY = 1536 * 1024**2
"""Bytes below which k3s's server, Istio's control plane and a kernel don't fit (measured: 0.9-1.3 GiB in use)."""

AGENT_MEMORY = 768 * 1024**2

_ISTIOD, _FIRST_SERVICE = 20, 32
"""Places in the network of services: Kubernetes leaves the first 256 to who chooses an address (KEP-3070)."""


def api_address(inventory: Inventory) -> str:
    """Where the API answers: the address that moves, else the only server's, in the management network."""
    moving = inventory.cluster.api_address
    return str(moving if moving is not None else inventory.management_address(inventory.servers()[0].name))


def router_address(inventory: Inventory) -> IPv4Address:
    """Where machines outside the cluster send what is for its pods and services, in the mesh network: the only
    server's address, else one that moves between them, at the same place as the API's in its network."""
    moving = inventory.cluster.api_address
    if moving is None:
        return inventory.mesh_address(inventory.servers()[0].name)
    place = int(moving) - int(inventory.networks.management.network_address)
    return inventory.networks.mesh.network_address + place


def image_packages(inventory: Inventory) -> tuple[str, ...]:
    """Debian packages that nodes have on top of their image's recipe: what moves the API's address."""
    return ("curl", "keepalived") if len(inventory.servers()) > 1 else ()


def istiod_address(inventory: Inventory) -> IPv4Address:
    """istiod's service, fixed so that machines outside the cluster need no DNS to find it."""
    return inventory.cluster.services.network_address + _ISTIOD


def first_service_address(inventory: Inventory) -> IPv4Address:
    """Where addresses of the inventory's services begin in the cluster."""
    return inventory.cluster.services.network_address + _FIRST_SERVICE


def endpoint_host(endpoint: str) -> str:
    """What k3s knows an endpoint's credentials by: its host, with the port if it names one."""
    return endpoint.partition("://")[2].partition("/")[0]


def cluster_findings(inventory: Inventory) -> Iterator[Finding]:
    """Problems of the istio backend's part of an inventory."""
    if inventory.mesh.backend == "istio":
        yield from _servers(inventory)
        yield from _sizes(inventory)
        yield from _networks(inventory)
        yield from _places(inventory)
        yield from _registries(inventory)
    else:
        yield from _without_cluster(inventory)


def _without_cluster(inventory: Inventory) -> Iterator[Finding]:
    advice = "write mesh.backend: istio, or leave it out"
    for i, node in enumerate(inventory.nodes):
        if node.cluster is not None:
            yield ("nodes", i, "cluster"), "only the istio backend has a cluster", advice
    if inventory.mesh.version is not None:
        yield ("mesh", "version"), "the standalone backend has no Istio", advice
    if inventory.mesh.mode != "sidecar":
        yield ("mesh", "mode"), f"the standalone backend has no {inventory.mesh.mode} mode", advice
    if "cluster" in inventory.model_fields_set:
        yield ("cluster",), "only the istio backend has a cluster", advice


def _servers(inventory: Inventory) -> Iterator[Finding]:
    count = len(inventory.servers())
    address = inventory.cluster.api_address
    if count == 0:
        yield ("nodes",), "the istio backend needs a node that runs the cluster", "write cluster: server at one"
        return
    if count % 2 == 0:
        text = f"{count} servers outlive no more lost ones than {count - 1}: etcd needs a majority"
        yield ("nodes",), text, f"use {count - 1} or {count + 1} servers"
    if count > 1 and address is None:
        text = f"{count} servers need an address that moves between them"
        yield ("cluster",), text, "write cluster.apiAddress: a free address of the management network"
    if count > 1 and inventory.image.recipe is None:
        text = "several servers need keepalived, which is put only into images that are made here"
        yield ("image",), text, "write image: debian-12"
    if address is None:
        return
    where = ("cluster", "apiAddress")
    if count == 1:
        yield where, "one server needs no address that moves", "leave it out, or use three servers"
    network = inventory.networks.management
    taken = {inventory.management_address(n.name): n.name for n in inventory.nodes}
    if address not in network or address in (network.network_address, network.broadcast_address):
        yield where, f"{address} is no address of the management network {network}", "use one of it"
    elif address in taken:
        yield where, f"{address} is node {taken[address]}'s", "use a free one"
    elif address == network.network_address + 1:
        yield where, f"{address} is the host's own", "use a free one"
    else:
        yield from _router(inventory)


def _router(inventory: Inventory) -> Iterator[Finding]:
    """The address beside the API's: nodes have other numbers than it, workloads count down from the end."""
    mesh, workloads = inventory.networks.mesh, sum(w.replicas for w in inventory.workloads)
    address = router_address(inventory)
    first = mesh.broadcast_address - workloads - len(inventory.gateways)
    if address not in mesh or address >= first:
        where = ("cluster", "apiAddress")
        text = f"{address}, where machines outside the cluster reach it, is no free address of the mesh network"
        yield where, text, "use one nearer to the start of the management network"


def _sizes(inventory: Inventory) -> Iterator[Finding]:
    least = {"server": SERVER_MEMORY, "agent": AGENT_MEMORY}
    for i, node in enumerate(inventory.nodes):
        needed = least.get(node.cluster or "", 0)
        if node.memory < needed:
            text = f"{node.memory >> 20} MiB are too little for a cluster's {node.cluster}"
            yield ("nodes", i, "memory"), text, f"give it {needed >> 20}MiB or more"


def _networks(inventory: Inventory) -> Iterator[Finding]:
    known: list[tuple[str, IPv4Network]] = [
        ("the management network", inventory.networks.management),
        ("the mesh network", inventory.networks.mesh),
    ]
    for field, network in (("pods", inventory.cluster.pods), ("services", inventory.cluster.services)):
        for name, other in known:
            if network.overlaps(other):
                yield ("cluster", field), f"{network} overlaps {name} {other}", "use separate networks"
        known.append((f"the cluster's {field}", network))
    # k3s gives each node a /24 of the pods' network (its node-cidr-mask-size)
    room = 1 << max(0, 24 - inventory.cluster.pods.prefixlen)
    count = len(inventory.servers()) + len(inventory.agents())
    if inventory.cluster.pods.prefixlen > 24 or room < count:
        yield (
            ("cluster", "pods"),
            f"{inventory.cluster.pods} has no /24 for each of {count} nodes",
            "use a larger one",
        )


def _places(inventory: Inventory) -> Iterator[Finding]:
    inside = {n.name for n in inventory.nodes if n.cluster is not None}
    outside = {n.name for n in inventory.nodes if n.cluster is None}
    for i, workload in enumerate(inventory.workloads):
        if set(workload.node) & inside and set(workload.node) & outside:
            text = "its replicas would be pods on some nodes and on others not"
            yield ("workloads", i, "node"), text, "use nodes of the cluster, or machines outside it"
    for i, gateway in enumerate(inventory.gateways):
        if gateway.node in outside:
            yield ("gateways", i, "node"), "with Istio a gateway runs in the cluster", "use a node of the cluster"


def _registries(inventory: Inventory) -> Iterator[Finding]:
    owners: dict[str, tuple[str, Registry]] = {}
    for name, registry in inventory.cluster.registries.items():
        where = ("cluster", "registries", name)
        if (registry.certificate is None) != (registry.key is None):
            yield where, "a certificate and its key belong together", "give both, or none"
        if (registry.username is None) != (registry.password is None):
            yield where, "a username and its password belong together", "give both, or none"
        shown = registry.model_copy(update={"endpoints": []})
        for i, endpoint in enumerate(registry.endpoints):
            at, host = (*where, "endpoints", i), endpoint_host(endpoint)
            if "@" in host:
                yield at, "credentials in an address", "write username, and password: {file: PATH} or {env: NAME}"
                continue
            if endpoint.startswith("http:") and shown != Registry.model_construct(endpoints=[]):
                yield at, f"{host} is asked without TLS, and would be shown credentials", "write https://"
            owner, other = owners.setdefault(host, (name, shown))
            if other != shown:
                yield at, f"{host} has other credentials as an endpoint of {owner}", "give both the same"
