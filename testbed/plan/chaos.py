"""Random schedules of faults: the same seed gives the same schedule, and a schedule that fails is made smaller."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from testbed.model.fault import Fault, FaultKind
from testbed.model.topology import MeshWorkload, Topology
from testbed.plan.faults import Machine, NothingToBreak, actions_of, conflict

KINDS = (
    FaultKind.FREEZE,
    FaultKind.POWER_OFF,
    FaultKind.RESET,
    FaultKind.CRASH,
    FaultKind.RESTART,
    FaultKind.LINK_DOWN,
    FaultKind.LINK_FLAP,
    FaultKind.PARTITION,
    FaultKind.SLOW_LINK,
    FaultKind.DISK_STALL,
    FaultKind.DISK_SLOW,
    FaultKind.DISK_FULL,
    FaultKind.CPU,
    FaultKind.SIDECAR_KILL,
    FaultKind.SIDECAR_HANG,
    FaultKind.SIDECAR_RESTART,
    FaultKind.SERVICE_KILL,
    FaultKind.SERVICE_HANG,
)
BOOT, REST = 60.0, 20.0
"""Seconds that a machine is left alone after a fault: one that has to boot, and any other."""
_BOOTS = (FaultKind.POWER_OFF, FaultKind.RESET, FaultKind.CRASH, FaultKind.RESTART)


def schedule(
    seed: int, length: float, machines: Mapping[str, Machine], topology: Topology, *, spared: Sequence[str] = ()
) -> tuple[Fault, ...]:
    """Faults for ``length`` seconds of traffic on all nodes but the ``spared``; some overlap, none conflicts.

    The first comes after 5 s, and the last is mended 30 s before the end, so that the end can be compared.
    Raises ValueError when there is nothing to break or no time for it.
    """
    nodes = [n for n in machines if n not in spared]
    workloads = [w for w in topology.workloads if w.node in nodes and w.service and w.ports]
    if not nodes or not workloads or length < 45:
        raise ValueError("random faults need 45 s, and a machine with a workload that may be broken")
    chance = random.Random(seed)  # noqa: S311 - replayable on purpose
    free = dict.fromkeys(nodes, 0.0)
    found: list[Fault] = []
    now = 5.0
    while True:
        fault = _draw(chance, now, nodes, workloads)
        lasts = fault.duration or 1.0
        if now + lasts > length - 30:
            return tuple(found)
        try:
            actions = actions_of(fault, machines, topology)
        except NothingToBreak:  # such as a partition from pods
            continue
        running = [f for f in found if f.at + (f.duration or 1.0) > now]
        busy = any(free[a.node] > now for a in actions if a.node in free)
        if not busy and not conflict(actions, [a for f in running for a in actions_of(f, machines, topology)]):
            found.append(fault)
            for action in actions:
                free[action.node] = now + lasts + (BOOT if fault.kind in _BOOTS else REST)
            now += lasts + chance.uniform(2, 6) if chance.random() < 0.7 else chance.uniform(1, 3)
        else:
            now += 1.0
        now = round(now, 1)


def _draw(chance: random.Random, at: float, nodes: Sequence[str], workloads: Sequence[MeshWorkload]) -> Fault:
    kind = chance.choice(KINDS)
    values: dict[str, object] = {"kind": kind, "at": f"{at:.1f}s"}
    if not kind.momentary:
        values["for"] = f"{chance.uniform(3, 8):.1f}s"
    workload = chance.choice(workloads)
    values["target"] = workload.name if kind.of_workload else workload.node
    if kind is FaultKind.PARTITION:
        others = [w.name for w in workloads if w.node != workload.node]
        if not others:
            return _draw(chance, at, nodes, workloads)
        values |= {"target": workload.name, "peer": chance.choice(others), "oneWay": chance.random() < 0.5}
    if kind is FaultKind.SLOW_LINK:
        values |= {"delay": f"{chance.choice((20, 50, 150))}ms", "loss": chance.choice((0, 1, 5))}
    return Fault.model_validate(values)


def shrink(
    faults: Sequence[Fault], fails: Callable[[Sequence[Fault]], bool], *, most: int = 40
) -> tuple[Fault, ...]:
    """A smaller schedule for which ``fails`` still says True: no fault of it can be left out.

    Zeller's ddmin: halves first, then ever smaller parts.  ``fails`` is asked at most ``most`` times, as each may
    take minutes; what is left then is returned.
    """
    left, parts, asked = list(faults), 2, 0
    while len(left) > 1 and asked < most:
        size = -(-len(left) // parts)
        chunks = [left[i : i + size] for i in range(0, len(left), size)]
        for number in range(len(chunks)):
            rest = [f for i, chunk in enumerate(chunks) if i != number for f in chunk]
            asked += 1
            if fails(rest):
                left, parts = rest, max(parts - 1, 2)
                break
            if asked >= most:
                return tuple(left)
        else:
            if size == 1:
                return tuple(left)
            parts = min(len(left), parts * 2)
    return tuple(left)
