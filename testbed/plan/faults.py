"""What a fault means on the lab's machines, as values: which node is broken how, and what can't stand together.

Most is either a word to the hypervisor or a pair of shell scripts for the guest.  A script that begins a fault
prints what proves that it took hold; one that ends it may be run twice, and after a reboot, without harm.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from testbed.model.fault import Fault, FaultKind
from testbed.model.topology import MeshWorkload, ProxyKind, Topology

MESH_NIC = "eth1"
FILL = "/var/tmp/testbed-fault.fill"  # noqa: S108 - in the guest
HOG = "testbed-fault-hog"


class NoSuchTarget(ValueError):
    """A target names nothing of the lab, or nothing that the fault can hit; the text says what and why."""


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
class InGuest:
    """Two scripts for the guest, and a third that proves: it ends with status 0 while the fault holds."""

    node: str
    begin: str
    end: str
    proof: str
    part: str
    """What of the machine it takes hold of, for conflicts."""


@dataclass(frozen=True)
class Certificate:
    """The certificate that a workload shows."""

    node: str
    workload: str
    how: FaultKind


Action = Power | Link | Silence | Throttle | DiskErrors | Balloon | InGuest | Certificate


@dataclass(frozen=True)
class Machine:
    """What planning has to know of a node.  ``memory`` is in bytes."""

    name: str
    address: IPv4Address
    """In the mesh network."""
    zone: str
    memory: int


def actions_of(fault: Fault, machines: Mapping[str, Machine], topology: Topology) -> tuple[Action, ...]:
    """The fault on each machine that it concerns.  Raises :class:`NoSuchTarget`."""
    if fault.kind is FaultKind.PARTITION:
        return tuple(_silence(fault, machines, topology))
    if fault.kind.of_workload:
        return tuple(_on_workload(fault, w) for w in _workloads(fault, topology, machines))
    return tuple(_on_machine(fault, machines[n], machines) for n in nodes_of(fault.target, machines, topology))


def nodes_of(names: Iterable[str], machines: Mapping[str, Machine], topology: Topology) -> tuple[str, ...]:
    """The nodes that are named, or that the named workloads run on, or that lie in a zone."""
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
        case InGuest(node, part=part):
            return frozenset({(node, part)})
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


def _on_machine(fault: Fault, machine: Machine, machines: Mapping[str, Machine]) -> Action:  # noqa: PLR0911, PLR0912
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
            return _disk_full(node)
        case FaultKind.DISK_ERRORS:
            return DiskErrors(node)
        case FaultKind.MEMORY:
            return Balloon(node, (fault.leave or 48) * 1024**2, machine.memory)
        case FaultKind.CPU:
            return _starved(node)
        case FaultKind.CLOCK:
            return _clock(node, fault.by or 0.0)
        case FaultKind.CLOCK_DRIFT:
            return _drifting(node, fault.drift or 0.0)
        case FaultKind.SLOW_LINK:
            other = next((m for m in machines.values() if m.name != node), machine)
            return _slow_link(node, fault, other.address)
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


def _on_workload(fault: Fault, workload: MeshWorkload) -> Action:
    node, name = workload.node, workload.name
    if fault.kind.value.startswith("certificate-"):
        return Certificate(node, name, fault.kind)
    of_sidecar = fault.kind.value.startswith("sidecar-")
    if not of_sidecar and not workload.ports:
        raise NoSuchTarget(f"{name} runs no program beside its proxy")
    unit = f"testbed-{'sidecar' if of_sidecar else 'program'}@{name}"
    pid = f"$(systemctl show -p MainPID --value {unit})"
    match fault.kind:
        case FaultKind.SIDECAR_HANG | FaultKind.SERVICE_HANG:
            return InGuest(
                node,
                begin=f"systemctl kill -s STOP {unit}",
                end=f"systemctl kill -s CONT {unit} || true",
                proof=f"grep -q 'State:.T' /proc/{pid}/status && echo 'its state is T (stopped)'",
                part=unit,
            )
        case FaultKind.SIDECAR_RESTART:
            return InGuest(
                node,
                begin=f'before={pid}; systemctl restart {unit}; echo "was $before" >/run/{unit}.fault',
                end=f"rm -f /run/{unit}.fault",
                proof=f"read -r _ was </run/{unit}.fault; now={pid}; "
                'echo "process $was became $now"; [ "$was" != "$now" ] && [ "$now" != 0 ]',
                part=unit,
            )
        case _:
            # held down: a unit that restarts itself after a second would be a fault of a second
            return InGuest(
                node,
                begin=f"systemctl kill -s KILL {unit}; systemctl stop {unit}",
                end=f"systemctl start {unit}",
                proof=f'state=$(systemctl show -p ActiveState --value {unit}); echo "the unit is $state"; '
                '[ "$state" != active ]',
                part=unit,
            )


def _disk_full(node: str) -> InGuest:
    return InGuest(
        node,
        # root's reserve is taken too: everything in a guest that matters runs as somebody who could use it or not
        begin=f"free=$(stat -f -c '%f * %S' /); fallocate -l $(($free - 65536)) {FILL} 2>/dev/null; "
        f"dd if=/dev/zero of={FILL} bs=4k oflag=append conv=notrunc 2>/dev/null || true",
        # on the disk, too: a machine that goes down next would have the file again, and nobody to mend it
        end=f"rm -f {FILL} {FILL}.probe; sync -f /",
        proof=f"! dd if=/dev/zero of={FILL}.probe bs=64k count=1 2>/run/testbed-fault.words; "
        f"status=$?; tail -n1 /run/testbed-fault.words; rm -f {FILL}.probe; "
        "grep -q 'No space left' /run/testbed-fault.words && exit $status",
        part="space",
    )


def _starved(node: str) -> InGuest:
    # four loops with four times a service's weight: what else runs gets about a fifth of the processor, so that the
    # node can still be told to stop
    loop = "for i in 1 2 3 4; do (while :; do :; done) & done; wait"
    used = f"$(systemctl show -p CPUUsageNSec --value {HOG})"
    look = f"read -r up _ </proc/uptime; set -- {used} ${{up%.*}}${{up#*.}}"
    return InGuest(
        node,
        begin=f"systemd-run -q --unit={HOG} --property=CPUWeight=400 sh -c {shlex.quote(loop)}",
        end=f"systemctl stop {HOG} 2>/dev/null || true",
        # nanoseconds of processor over hundredths of a second that went by, in percent
        proof=f"{look}; a=$1; since=$2; sleep 1; {look}; share=$((($1 - $a) / ($2 - $since) / 100000)); "
        'echo "a hog takes $share% of a processor"; [ $share -ge 40 ]',
        part="CPU",
    )


def _clock(node: str, by: float) -> InGuest:
    # the true time comes from the host with each script, as $NOW (seconds since the epoch)
    shifted = f'$(awk "BEGIN {{printf \\"%.3f\\", $NOW + ({by:.3f})}}")'
    low, high = by - 30, by + 30
    return InGuest(
        node,
        begin=f"date -s @{shifted} >/dev/null",
        end="date -s @$NOW >/dev/null",
        proof='off=$(($(date +%s) - ${NOW%.*})); echo "the guest\'s clock is off by $off s"; '
        f"[ $off -ge {int(low)} ] && [ $off -le {int(high)} ] && [ ${{off#-}} -ge 1 ]",
        part="clock",
    )


def _drifting(node: str, percent: float) -> InGuest:
    # the raw clock is the one that the tick does not touch
    off = "time.time() - time.clock_gettime(time.CLOCK_MONOTONIC_RAW)"
    measure = f"import time; a = {off}; time.sleep(2); gained = ({off} - a) * 50; "
    wrong = f"abs(gained - {percent:g}) > {abs(percent) / 2:g}"
    judge = f"print(f'its clock gains {{gained:.1f}}%'); raise SystemExit({wrong})"
    return InGuest(
        node,
        begin=f"busybox adjtimex -q -t {round(10_000 * (1 + percent / 100))}",
        end="busybox adjtimex -q -t 10000; date -s @$NOW >/dev/null",
        proof=f"python3 -IS -c {shlex.quote(measure + judge)}",
        part="clock",
    )


def _slow_link(node: str, fault: Fault, other: IPv4Address) -> InGuest:
    words = []
    if fault.delay is not None:
        words.append(f"delay {fault.delay * 1000:g}ms" + (f" {fault.jitter * 1000:g}ms" if fault.jitter else ""))
    for name in ("loss", "duplicate", "reorder"):
        if (value := getattr(fault, name)) is not None:
            words.append(f"{name} {value:g}%")
    if fault.rate is not None:
        words.append(f"rate {fault.rate * 8}kbit")
    # the guest's queue shapes what it sends only; the kernel of many hosts has no netem to do it on the tap
    least = (fault.delay or 0) - (fault.jitter or 0)
    proofs = [f"ping -q -c 20 -i 0.02 -W 1 {other} >/run/testbed-fault.words; tail -n2 /run/testbed-fault.words"]
    if least > 0:
        proofs.append(
            f"awk -F/ '/^rtt/ {{found = 1; if ($5 < {least * 1000 * 0.8:.3f}) exit 1}} END {{exit !found}}' "
            "/run/testbed-fault.words"
        )
    else:
        proofs.append(f"tc -s qdisc show dev {MESH_NIC} | grep -q 'qdisc netem'")
    return InGuest(
        node,
        begin=f"modprobe sch_netem; tc qdisc replace dev {MESH_NIC} root netem limit 10000 {' '.join(words)}",
        end=f"tc qdisc del dev {MESH_NIC} root 2>/dev/null || true",
        proof=" && ".join(f"{{ {p}; }}" for p in proofs),
        part="shape",
    )


def _silence(fault: Fault, machines: Mapping[str, Machine], topology: Topology) -> Iterator[Action]:
    if fault.only:
        none = "asks no DNS server: names are in files" if fault.only == "dns" else "has no control plane to lose"
        raise NoSuchTarget(f"the standalone mesh {none}")
    ours = _addresses(fault.target, machines, topology)
    theirs = _addresses(fault.peer or (), machines, topology)
    pairs = [(a, b) for a in ours for b in theirs if ours[a][0] != theirs[b][0]]
    if not pairs:
        raise NoSuchTarget("both sides are on one machine: nothing between them crosses a wire")
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
