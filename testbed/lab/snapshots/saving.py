"""Saving: all machines stand still at one instant, RAM and disks are written, all go on.

RAM is written while the machines are paused.  Writing it while they run and stopping each at the end would make
the pause shorter, but a migration stream holds the state of its own end: six machines would be saved at six
instants.  Services are stopped inside first (freeze.sh, testbed_thaw.py), so that after a restore nothing runs
before the thaw.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from testbed.errors import LabError
from testbed.hypervisor.memory import pause as pause_machine
from testbed.hypervisor.memory import resume, save_memory
from testbed.lab.lab import Lab
from testbed.lab.snapshots.thawing import ask

Item = TypeVar("Item")
Result = TypeVar("Result")
FREEZE = ("sh", "/opt/testbed/node/freeze.sh")
FREEZE_LIMIT = 30.0
"""Seconds for a node's services to stop, or to go on."""
MOST_LAYERS = 4
"""A disk with more layers than these is saved as one: each layer costs every read that it doesn't answer."""


@dataclass(frozen=True)
class Saved:
    """What a save wrote.  Times in seconds."""

    disks: dict[str, tuple[str, ...]]
    """Node -> its disk's layers, lowest first."""
    pause: float
    """Until the last machine went on, from when the first one was stopped."""
    standing: float
    """Until the last node's services went on, from when the first ones were stopped: what a client sees."""
    apart: float
    """Between the first and the last machine's stop: how far the instant is from being one."""


def save_machines(lab: Lab, folder: Path, image_format: str) -> Saved:
    """Write RAM and disks of all machines into ``folder``, and the lab's keys; the machines go on.

    Whatever fails, the machines go on.  The caller holds the lab's lock.  ``image_format`` is that of the
    image below the disks.
    """
    hypervisor = lab.hypervisor()
    nodes = [n.name for n in lab.inventory.nodes]
    layers = {node: _lower_layers(lab, node) for node in nodes}

    written: dict[str, tuple[str, ...]] = {}

    def memory(node: str) -> None:
        save_memory(hypervisor, node, folder / f"{node}.ram")

    def disk(node: str) -> None:  # QEMU has written all that it held back when it stopped the machine (do_vm_stop)
        written[node] = copy_disk(lab, node, layers[node], folder)

    try:
        each(nodes, lambda node: lab.connection(node).run([*FREEZE, "ready"]))
        begin = time.monotonic()
        each(nodes, lambda node: ask(lab.connection(node), {"do": "freeze"}, FREEZE_LIMIT))
        first = time.monotonic()
        try:
            stopped = each(nodes, lambda node: _stop(lab, node))
            works = [partial(work, node) for work in (memory, disk) for node in nodes]
            each(works, lambda work: work())
        finally:
            each(nodes, lambda node: resume(hypervisor, node))
        pause = time.monotonic() - first
    finally:
        each(nodes, lambda node: go_on(lab, node))
    standing = time.monotonic() - begin
    shutil.copytree(lab.directories.pki, folder / "pki")
    disks = {node: _flattened(folder, written[node], image_format) for node in nodes}
    return Saved(disks, pause, standing, max(stopped.values()) - min(stopped.values()))


def each(items: Iterable[Item], work: Callable[[Item], Result]) -> dict[Item, Result]:
    """``work`` for every item, such as a node, at once; the first error is raised after all have ended."""
    wanted = list(items)
    with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
        return dict(zip(wanted, pool.map(work, wanted), strict=True))


def go_on(lab: Lab, node: str) -> None:
    """Let a node's services go on, with the right time; also those that a killed save left standing."""
    connection = lab.connection(node)
    try:
        ask(connection, {"do": "go on"}, FREEZE_LIMIT)
    except LabError:  # nobody waits there any more, or yet, or who waits there can't
        connection.connect()  # takes a while, and the time is told after it
        connection.run([*FREEZE, "off", f"{time.time():.3f}"])


def _stop(lab: Lab, node: str) -> float:
    pause_machine(lab.hypervisor(), node)
    return time.monotonic()


def layer_file(node: str, number: int) -> str:
    """The name of a layer of a node's disk, the same in a snapshot and beside the lab's disks."""
    return f"{node}.{number}.qcow2"


def _lower_layers(lab: Lab, node: str) -> tuple[Path, ...]:
    """What lies between the node's disk and the image: layers that an earlier restore brought."""
    found: list[Path] = []
    while (path := lab.directories.volumes / layer_file(node, len(found))).exists():
        found.append(path)
    return tuple(found)


def copy_disk(lab: Lab, node: str, below: tuple[Path, ...], folder: Path) -> tuple[str, ...]:
    """The node's disk, which nobody writes to now; its lower layers never change and are shared."""
    names = [path.name for path in below]
    for path in below:
        share(path, folder / path.name)
    names.append(layer_file(node, len(below)))
    _run("cp", "--sparse=always", "--reflink=auto", lab.directories.volumes / f"{node}.qcow2", folder / names[-1])
    return tuple(names)


def share(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the disks differ."""
    try:
        target.hardlink_to(source)
    except OSError:
        _run("cp", "--sparse=always", "--reflink=auto", source, target)


def _flattened(folder: Path, names: tuple[str, ...], image_format: str) -> tuple[str, ...]:
    if len(names) <= MOST_LAYERS:
        return names
    base = backing_file(folder / names[0])
    single = folder / f"{names[0]}.single"
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-B", base, "-F", image_format]
    _run(*argv, folder / names[-1], single)
    for name in names:
        (folder / name).unlink()
    single.rename(folder / names[0])
    return names[:1]


def backing_file(disk: Path) -> str:
    """What a qcow2 lies on, as its header says (QEMU's docs/interop/qcow2.txt)."""
    with disk.open("rb") as file:
        header = file.read(20)
        offset, length = int.from_bytes(header[8:16]), int.from_bytes(header[16:20])
        file.seek(offset)
        return file.read(length).decode()


def _run(*argv: str | Path) -> None:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(str(argv[-1]), f"write it with {argv[0]}", done.stderr.strip(), "see that the disk has room")
