"""What a fault means on the lab's machines, as values: which node is broken how, and what can't stand together.

Most is either a word to the hypervisor or a pair of shell scripts for the guest (:mod:`.guestfaults`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Literal

from testbed.model.fault import Fault, FaultKind
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.plan.guestfaults import InGuest, SlowLink, clock, disk_full, drifting, slow_link, starved, unit_broken
from testbed.plan.podfaults import control_plane_killed, pod_broken


class NoSuchTarget(ValueError):
    """A target names nothing of the lab, or nothing that the fault can hit; the text says what and why."""


class NothingToBreak(NoSuchTarget):
    """The lab has what is named, and by its nature nothing there that the fault could hit."""


@dataclass(frozen=True)
class Power:
    """The whole machine: freeze, power-off, reset, crash or restart."""

    node: str
    how: FaultKind
    drain: bool = True
    """restart: its sidecars are drained before."""


@dataclass(frozen=True)
class Link:
    """The carrier of the machine's mesh NIC; with a ``period`` (seconds) it goes and comes."""

    node: str
    period: float = 0.0


@dataclass(frozen=True)
class Silence:
    """Packets between two sets of mesh addresses are lost on the lab's bridge.

    ``probe``: a namespace on ``node`` ("" for the node's own) and an address of the other side, to try it.
    """

    node: str
    sources: tuple[IPv4Address, ...]
    targets: tuple[IPv4Address, ...]
    both: bool
    port: int | None
    probe: tuple[str, IPv4Address]


@dataclass(frozen=True)
class Throttle:
    """Writes to the root disk: so many bytes a second."""

    node: str
    write: int


@dataclass(frozen=True)
class DiskErrors:
    """Writes to the root disk fail.  A file system that has seen that is taken up again by a boot only."""

    node: str


@dataclass(frozen=True)
class Balloon:
    """Memory is taken from the guest until ``leave`` (bytes) are available there; ``whole`` is what it had."""

    node: str
    leave: int
    whole: int


@dataclass(frozen=True)
class Certificate:
    """The certificate that a workload shows."""

    node: str
    workload: str
    how: FaultKind


@dataclass(frozen=True)
class Upgrade:
    """The whole cluster is brought to the releases of the inventory; noted on its first server."""

    node: str


Action = Power | Link | Silence | Throttle | DiskErrors | Balloon | InGuest | SlowLink | Certificate | Upgrade


@dataclass(frozen=True)
class Machine:
    """What planning has to know of a node.  ``memory`` is in bytes."""

    name: str
    address: IPv4Address
    """In the mesh network."""
    zone: str
    memory: int
    cluster: Literal["server", "agent"] | None = None
    """What it is in the cluster, where its workloads are pods."""


def actions_of(
    fault: Fault,
    machines: Mapping[str, Machine],
    topology: Topology,
    backend: str = "standalone",
    places: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Action, ...]:
    """The fault on each machine that it concerns.  Raises :class:`NoSuchTarget`.

    ``places``: workload -> the node that its pod is on, where that is known.  What breaks a workload breaks it
    there; a machine that is named by a workload is the one that the inventory has it on, wherever its pod is: a
    schedule of faults must not mean another machine from one run to the next.
    """
    if fault.only:
        raise NothingToBreak(no_server(fault.only, backend))
    if fault.kind is FaultKind.PARTITION:
        return tuple(_silence(fault, machines, topology))
    if fault.kind is FaultKind.CONTROL_PLANE_KILL:
        return tuple(control_plane_killed(n) for n in _servers(fault.target, machines))
    if fault.kind is FaultKind.UPGRADE:
        return (Upgrade(_whole_cluster(fault.target, machines)),)
    if fault.kind.of_workload:
        found = _workloads(fault, topology, machines)
        return tuple(_on_workload(fault, w, machines[places.get(w.name, w.node)], backend) for w in found)
    return tuple(
        _on_machine(fault, machines[n], machines, topology) for n in nodes_of(fault.target, machines, topology)
    )


def no_server(only: str, backend: str) -> str:
    """Why nothing in a mesh of this backend can be cut off from DNS alone, or from its control plane alone."""
    if backend == "standalone":
        none = (
            "asks no DNS server: names are in files"
            if only == "dns"
            else "has no control plane: proxies read files"
        )
        return f"the standalone mesh {none}"
    if only == "dns":
        return "CoreDNS runs in pods of the cluster, not on a machine of its own"
    return "istiod runs in pods of the cluster, not on a machine of its own: use control-plane-kill istiod"


def _servers(names: Iterable[str], machines: Mapping[str, Machine]) -> tuple[str, ...]:
    """The servers that are named; ``istiod`` stands for all of them: any may have it."""
    servers = [m.name for m in machines.values() if m.cluster == "server"]
    if not servers:
        raise NothingToBreak(no_server("control-plane", "standalone"))
    found: dict[str, None] = {}
    for name in names:
        if name != "istiod" and name not in servers:
            raise NoSuchTarget(f"the cluster has no server {name!r}: name one, or istiod for all of them")
        found.update(dict.fromkeys(servers if name == "istiod" else [name]))
    return tuple(found)


def _whole_cluster(names: Iterable[str], machines: Mapping[str, Machine]) -> str:
    """Its first server."""
    if [*names] != ["cluster"]:
        raise NoSuchTarget("an upgrade is of the whole cluster: name cluster")
    first = next((m.name for m in machines.values() if m.cluster == "server"), None)
    if first is None:
        raise NothingToBreak("the lab has no cluster that could be upgraded")
    return first


def nodes_of(names: Iterable[str], machines: Mapping[str, Machine], topology: Topology) -> tuple[str, ...]:
    """The nodes that are named, or that the named workloads have as their own, or that lie in a zone."""
    found: dict[str, None] = {}
    for name in names:
        if name in machines:
            found[name] = None
            continue
        hits = [m.name for m in machines.values() if name in (m.zone, m.zone.rpartition("/")[2])]
        hits = hits or [w.node for w in workloads_of(name, topology)]
        if not hits:
            raise NoSuchTarget(f"the lab has no node, workload, service or zone {name!r}")
        found.update(dict.fromkeys(hits))
    return tuple(found)


def workloads_of(name: str, topology: Topology) -> tuple[MeshWorkload, ...]:
    """A workload, all of a service, or those of ``service/version``."""
    exact = tuple(w for w in topology.workloads if w.name == name)
    service, _, version = name.partition("/")
    return exact or tuple(
        w
        for w in topology.workloads
        if w.service == service and w.kind is not ProxyKind.GATEWAY and version in ("", w.version)
    )


def peers_of(workloads: Iterable[MeshWorkload], topology: Topology) -> dict[str, tuple[IPv4Address, ...]]:
    """Workload -> the mesh addresses of all others."""
    return {w.name: tuple(o.address for o in topology.workloads if o.name != w.name) for w in workloads}


def parts_of(action: Action) -> frozenset[tuple[str, str]]:  # noqa: PLR0911  (one line per action)
    """(node, part) that it takes hold of; see :func:`conflict`."""
    match action:
        case Power(node) | DiskErrors(node):
            return frozenset({(node, "machine")})
        case Link(node):
            return frozenset({(node, "link")})
        case Throttle(node):
            return frozenset({(node, "disk")})
        case Balloon(node):
            return frozenset({(node, "memory")})
        case SlowLink(node):
            return frozenset({(node, "shape")})
        case InGuest(node, part=part):
            return frozenset({(node, part)})
        case Upgrade(node):
            return frozenset({(node, "releases")})
        case Certificate(node, workload):
            return frozenset({(node, f"certificate of {workload}")})
        case Silence():
            return frozenset()  # losing a packet twice is losing it


def conflict(new: Iterable[Action], standing: Iterable[Action]) -> str:
    """Why ``new`` can't be added to what stands: one part in two hands, or a machine that is out altogether."""
    held = [part for action in standing for part in parts_of(action)]
    for action in new:
        for node, part in parts_of(action):
            for other_node, other in held:
                if node == other_node and (part == other or "machine" in (part, other)):
                    return f"the {other} of {node} is broken already"
    return ""


def doubled(actions: Iterable[Action]) -> str:
    """Why a fault conflicts with itself; empty when it does not."""
    seen: list[Action] = []
    for action in actions:
        if reason := conflict([action], seen):
            return reason
        seen.append(action)
    return ""


def _on_machine(fault: Fault, machine: Machine, machines: Mapping[str, Machine], topology: Topology) -> Action:  # noqa: PLR0911, PLR0912
    node = machine.name
    match fault.kind:
        case FaultKind.FREEZE | FaultKind.POWER_OFF | FaultKind.RESET | FaultKind.CRASH | FaultKind.RESTART:
            return Power(node, fault.kind, fault.drain is not False)
        case FaultKind.LINK_DOWN:
            return Link(node)
        case FaultKind.LINK_FLAP:
            return Link(node, fault.period or 2.0)
        case FaultKind.DISK_STALL:
            return Throttle(node, 1)
        case FaultKind.DISK_SLOW:
            return Throttle(node, 1024 * (fault.rate or 64))
        case FaultKind.DISK_FULL:
            return disk_full(node)
        case FaultKind.DISK_ERRORS:
            return DiskErrors(node)
        case FaultKind.MEMORY:
            return Balloon(node, (fault.leave or 48) * 1024**2, machine.memory)
        case FaultKind.CPU:
            return starved(node)
        case FaultKind.CLOCK:
            return clock(
                node, fault.by or 0.0, peers_of([w for w in topology.workloads if w.node == node], topology)
            )
        case FaultKind.CLOCK_DRIFT:
            return drifting(node, fault.drift or 0.0)
        case FaultKind.SLOW_LINK:
            others = tuple(m.address for m in machines.values() if m.name != node)
            if not others:
                raise NothingToBreak("the lab has no other machine, so that nothing crosses its link")
            return slow_link(node, fault, others)
        case _:
            raise AssertionError(fault.kind)


def _workloads(fault: Fault, topology: Topology, machines: Mapping[str, Machine]) -> Iterator[MeshWorkload]:
    for name in fault.target:
        hits = workloads_of(name, topology)
        if not hits and name in machines:
            hits = tuple(w for w in topology.workloads if w.node == name)
        if not hits:
            raise NoSuchTarget(f"the lab has no workload or service {name!r}")
        yield from hits


def _on_workload(fault: Fault, workload: MeshWorkload, machine: Machine, backend: str) -> Action:
    node, name = machine.name, workload.name
    if fault.kind.value.startswith("certificate-"):
        if backend == "istio":
            raise NothingToBreak(f"{name} has its certificate from istiod, which gives it another at once")
        return Certificate(node, name, fault.kind)
    if fault.kind.value.startswith("sidecar-") and not workload.has_envoy:
        raise NothingToBreak(f"{name} is a pod in ambient mode and has no sidecar")
    if fault.kind.value.startswith("service-") and not workload.ports:
        raise NothingToBreak(f"{name} runs no program beside its proxy")
    return pod_broken(fault.kind, node, name) if machine.cluster else unit_broken(fault.kind, node, name)


def _silence(fault: Fault, machines: Mapping[str, Machine], topology: Topology) -> Iterator[Action]:
    ours = _addresses(fault.target, machines, topology)
    theirs = _addresses(fault.peer or (), machines, topology)
    if pods := sorted({node for node, _ in (*ours.values(), *theirs.values()) if machines[node].cluster}):
        # a filter by the addresses of the mesh would lose nothing, and its proof would ask one that nobody has
        text = f"what {', '.join(pods)} sends is of pods, under addresses that a partition doesn't know"
        raise NothingToBreak(f"{text}: use link-down or freeze")
    pairs = [(a, b) for a in ours for b in theirs if ours[a][0] != theirs[b][0]]
    if not pairs:
        raise NothingToBreak("both sides are on one machine: nothing between them crosses a wire")
    source, target = pairs[0]
    node, namespace = ours[source]
    both = not fault.one_way
    yield Silence(node, tuple(ours), tuple(theirs), both, fault.port, (namespace, target))


def _addresses(
    names: Iterable[str], machines: Mapping[str, Machine], topology: Topology
) -> dict[IPv4Address, tuple[str, str]]:
    """Mesh address -> (node, namespace) of everything that is named; a node stands for all that is on it."""
    found: dict[IPv4Address, tuple[str, str]] = {}
    for name in names:
        workloads = workloads_of(name, topology)
        if name in machines or not workloads:
            for node in nodes_of([name], machines, topology):
                found[machines[node].address] = (node, "")
                found |= {w.address: (node, w.name) for w in topology.workloads if w.node == node}
        else:
            found |= {w.address: (w.node, w.name) for w in workloads}
    return found
