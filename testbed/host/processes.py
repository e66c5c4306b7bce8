"""Which processes belong to a lab, read from ``/proc``: no pid files, so nothing can disagree with what runs.

A process belongs to a lab if its mount namespace has the lab's mark (the source of the tmpfs that the private
daemon's launcher mounts on ``/run`` there, see :mod:`testbed.host.daemon`), or if its environment has
``TESTBED_PART_OF=<state folder>``.  The first also holds for what libvirt starts with a clean environment
(QEMU, dnsmasq), the second for a launcher that has no mounts yet and for the forwarder, which lives in the
host's namespaces.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT = "TESTBED_PART_OF"
_MARK = "testbed:"
PROC = Path("/proc")


class Process(NamedTuple):
    """One process; ``name`` is the file name of its program."""

    pid: int
    parent: int
    name: str
    arguments: tuple[str, ...]
    contained: bool
    """Whether it lives in the lab's namespaces."""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def mark(state: Path) -> str:
    """The mount source that marks a mount namespace as that of the lab with this state folder."""
    return f"{_MARK}{state}"


def of_lab(state: Path, proc: Path = PROC) -> list[Process]:
    """Every living process of the lab, lowest pid first.  Root is needed to see other users' processes."""
    wanted, entry = mark(state), f"{ENVIRONMENT}={state}".encode()
    found = []
    for pid, marked in _marks(proc).items():
        contained = marked == wanted
        if contained or entry in _read(proc / str(pid) / "environ").split(b"\0"):
            process = _describe(proc, pid, contained)
            if process is not None:
                found.append(process)
    return found


def running_labs(proc: Path = PROC) -> list[Path]:
    """State folders of all labs that have a marked namespace on this host."""
    return sorted({Path(m.removeprefix(_MARK)) for m in _marks(proc).values() if m})


def listener_on(port: int, proc: Path = PROC) -> str:
    """Who listens on a TCP port of the host, as ``name (pid N)``; empty if that can't be seen."""
    inodes = set()
    for table in ("net/tcp", "net/tcp6"):
        for line in _read(proc / "self" / table).decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for pid in _pids(proc) if inodes else ():
        if _holds(proc / str(pid) / "fd", inodes) and (process := _describe(proc, pid, False)):
            return str(process)
    return ""


def _holds(descriptors: Path, sockets: set[str]) -> bool:
    try:
        for descriptor in descriptors.iterdir():
            try:
                if str(descriptor.readlink()) in sockets:
                    return True
            except FileNotFoundError:  # closed meanwhile
                continue
    except OSError:  # ended meanwhile, or another user's
        pass
    return False


def _pids(proc: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(proc) if name.isdecimal())  # noqa: PTH208 - names are enough


def _marks(proc: Path) -> dict[int, str]:
    """The mark of each visible process's mount namespace; empty for those that have none."""
    by_namespace: dict[str, str] = {}
    marks = {}
    seen: set[int] = set()
    # A process may fork and end between being listed and being read: look again until nobody is new.
    while new := [pid for pid in _pids(proc) if pid not in seen]:
        seen.update(new)
        for pid in new:
            try:
                namespace = str((proc / str(pid) / "ns" / "mnt").readlink())
            except OSError:  # a zombie, ended meanwhile, or another user's
                continue
            if namespace not in by_namespace:
                by_namespace[namespace] = _mount_mark(_read(proc / str(pid) / "mountinfo").decode(errors="replace"))
            marks[pid] = by_namespace[namespace]
    return marks


def _mount_mark(mountinfo: str) -> str:
    for line in mountinfo.splitlines():
        # proc(5): ... " - " type source options; blanks and backslashes stand as octal escapes
        source = line.partition(" - ")[2].split(" ")[1:2]
        if source and source[0].startswith(_MARK):
            return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), source[0])
    return ""


def _describe(proc: Path, pid: int, contained: bool) -> Process | None:
    arguments = _read(proc / str(pid) / "cmdline").decode(errors="replace").rstrip("\0").split("\0")
    stat = _read(proc / str(pid) / "stat").decode(errors="replace")
    if not stat:
        return None
    comm, fields = stat.partition("(")[2].rpartition(")")[0], stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), Path(arguments[0]).name or comm, tuple(arguments), contained)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
