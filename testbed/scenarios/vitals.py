"""How the machines were while a sample was taken: what is slow or lossy there must not be blamed on the mesh."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from testbed.errors import LabError
from testbed.model.topology import MeshWorkload
from testbed.report.record import MachineRecord
from testbed.scenarios.lab import LabUnderTest

CROWDED = 0.9
"""Share of the time in which some process waited for a processor, from which on nothing is said of times."""
LOSSY = 0.005
"""Share of TCP segments that were lost, from which on the mesh is not blamed for what comes of it: such a segment
is late by 200 ms or more, and a proxy may have given up meanwhile."""
FEW = 3
"""So many that were lost are nobody's trouble."""


_PRESSURE = re.compile(r"some .*total=(\d+)")
"""Microseconds in which some process was ready and had no processor (the kernel's Documentation/accounting/psi)."""


@dataclass(frozen=True)
class Vitals:
    """A node's counters at one moment; they never fall while the machine lives."""

    now: float
    """Seconds since it started."""
    waited: float | None
    """Of these, seconds in which some process waited for a processor; None where the kernel doesn't count them."""
    segments: Mapping[str, tuple[int, int, int]]
    """Workload -> segments sent, of these sent again, and of these the needless ones."""


def look(lab: LabUnderTest, workloads: Iterable[MeshWorkload]) -> dict[str, Vitals]:
    """The counters of the nodes that ``workloads`` are on, by node.  Raises LabError."""
    on_node = lab.by_node(workloads)
    if not on_node:
        return {}
    with ThreadPoolExecutor(len(on_node)) as pool:
        found = pool.map(lambda node: _look(lab, node, on_node[node]), on_node)
        return dict(zip(on_node, found, strict=True))


def _look(lab: LabUnderTest, node: str, names: list[str]) -> Vitals:
    parts = ["cat /proc/uptime", "cat /proc/pressure/cpu 2>/dev/null || echo"]
    files = ("/proc/net/snmp", "/proc/net/netstat")
    parts += [shlex.join([*lab.namespace(name), "grep", "-h", "^Tcp", *files]) for name in names]
    said = lab.backend.connection(names[0]).run(["bash", "-c", "; echo; ".join(parts)], limit=30).stdout
    try:
        uptime, pressure, *tables = said.decode().split("\n\n")
        waited = _PRESSURE.search(pressure)
        segments = {name: _segments(table) for name, table in zip(names, tables, strict=True)}
        return Vitals(float(uptime.split()[0]), int(waited[1]) / 1e6 if waited else None, segments)
    except (ValueError, KeyError, IndexError):
        raise LabError(node, "ask how it is", f"it said {said[:200]!r}", "see: testbed status") from None


def _segments(table: str) -> tuple[int, int, int]:
    """From the kernel's Tcp and TcpExt counters.

    What the other end had already, it says in a duplicate SACK (RFC 2883, and RFC 3708 for this use of it): nothing
    was lost then, its acknowledgement was late.  Emulated machines do that all the time.
    """
    lines = table.strip().splitlines()
    found: dict[str, str] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        found |= dict(zip(names.split(), values.split(), strict=True))
    needless = int(found["TCPDSACKRecv"]) + int(found["TCPDSACKOfoRecv"])
    return int(found["OutSegs"]), int(found["RetransSegs"]), needless


def between(before: Mapping[str, Vitals], after: Mapping[str, Vitals]) -> tuple[MachineRecord, ...]:
    """What became of the counters."""
    return tuple(
        MachineRecord(
            node=node,
            waited=None
            if then.waited is None or now.waited is None
            else _share(now.waited - then.waited, now.now - then.now),
            sent=_more(then, now, 0),
            sent_again=_more(then, now, 1),
            needless=_more(then, now, 2),
        )
        for node, now in after.items()
        if (then := before.get(node)) is not None
    )


def _more(then: Vitals, now: Vitals, column: int) -> int:
    """Of the workloads that were on the node both times."""
    return sum(
        now.segments[w][column] - then.segments[w][column] for w in now.segments.keys() & then.segments.keys()
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0


def lossy(machines: Iterable[MachineRecord]) -> str:
    """Which machine's packets got lost; empty when none's."""
    for machine in machines:
        if machine.lost > FEW and machine.lost > LOSSY * machine.sent:
            return f"{machine.node} lost {machine.lost} of {machine.sent} TCP segments and had to send them again"
    return ""


def crowded(machines: Iterable[MachineRecord]) -> str:
    """Which machine had more to do than it could; empty when none."""
    for machine in machines:
        if machine.waited is not None and machine.waited > CROWDED:
            return f"processes on {machine.node} waited for a processor {machine.waited:.0%} of the time"
    return ""
