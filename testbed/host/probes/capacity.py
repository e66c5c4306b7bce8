"""Disk and memory against what the inventory asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed.host.finding import Finding, Level

_GIB = 1024**3


def probe(memory: int, disk: int, folder: Path) -> list[Finding]:
    """``memory`` and ``disk`` in bytes: what all nodes have together, and what their disks will take."""
    return [_memory(memory, Path("/proc/meminfo").read_text()), _disk(disk, folder)]


def _memory(wanted: int, meminfo: str) -> Finding:
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in meminfo.splitlines() if " kB" in line}
    total, available = fields["MemTotal"], fields["MemAvailable"]
    detail = f"{_size(available)} of {_size(total)} available, the nodes have {_size(wanted)}"
    why = "a host that runs out of memory ends machines, which looks like a fault"
    mend = "end other programs, or give the inventory fewer or smaller nodes"
    if wanted > total:
        return Finding("memory", Level.MISSING, detail, why, mend)
    if wanted > available:
        return Finding("memory", Level.WARNING, detail, why, mend)
    return Finding("memory", Level.OK, detail, why)


def _disk(wanted: int, folder: Path) -> Finding:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    detail = f"{_size(free)} free at {there}, the lab takes up to {_size(wanted)}"
    why = "a machine whose disk can't grow is paused by QEMU"
    if free < wanted:
        mend = "make room there, or set XDG_STATE_HOME to a folder on a larger disk"
        return Finding("disk", Level.MISSING, detail, why, mend)
    return Finding("disk", Level.OK, detail, why)


def _size(value: int) -> str:
    return f"{value / _GIB:.1f} GiB"
