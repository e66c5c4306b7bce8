"""What pre-copying RAM would save: `python benchmarks/precopy.py [INVENTORY] [--runs N]`, of a lab that is up.

A snapshot of a lab can be written while all its machines are paused, or while they run (QEMU's migration, which
copies again what was written meanwhile and pauses a machine only for the rest). Both are done in turn, RAM only,
with nothing thawed and no disk copied, and the files are deleted. Told of each: how long the machines stood still
(the longest), how far apart the instants are that their RAM is of, seconds in all, and MiB written.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt

from testbed.hypervisor.memory import pause, resume, save_memory
from testbed.lab.lab import Lab
from testbed.workflows.loading import load_lab


class Watch:
    """When libvirt says that machines stopped and went on (monotonic seconds)."""

    def __init__(self, uri: str) -> None:
        self.stopped: dict[str, list[float]] = defaultdict(list)
        self.went_on: dict[str, list[float]] = defaultdict(list)
        self._connection = libvirt.openReadOnly(uri)
        self._connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._seen, None)

    def _seen(self, _: object, domain: libvirt.virDomain, event: int, __: int, ___: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            self.stopped[domain.name()].append(time.monotonic())
        elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self.went_on[domain.name()].append(time.monotonic())

    def result(self, count: int) -> tuple[float, float]:
        """The longest pause, and how far apart the machines' last instants are, once all have gone on."""
        limit = time.monotonic() + 10
        while len(self.went_on) < count and time.monotonic() < limit:
            time.sleep(0.01)
        last = {name: times[-1] for name, times in self.stopped.items()}
        assert len(last) == count, f"{count} machines, {len(last)} of them stopped"
        pauses = [times[-1] - self.stopped[name][0] for name, times in self.went_on.items()]
        self._connection.close()
        return max(pauses), max(last.values()) - min(last.values())


def paused(lab: Lab, folder: Path) -> None:
    """All stop, all are written, all go on."""
    hypervisor, nodes = lab.hypervisor(), [node.name for node in lab.inventory.nodes]
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(lambda node: pause(hypervisor, node), nodes))
        list(pool.map(lambda node: save_memory(hypervisor, node, folder / node), nodes))
        list(pool.map(lambda node: resume(hypervisor, node), nodes))


def precopied(lab: Lab, folder: Path) -> None:
    """Each is written while it runs, and stops for the rest."""
    hypervisor, nodes = lab.hypervisor(), [node.name for node in lab.inventory.nodes]
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(lambda node: save_memory(hypervisor, node, folder / node, live=True), nodes))


def main() -> None:
    """Measure, and print each and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory", nargs="?", default="bookinfo")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
    lab = load_lab(options.inventory)
    ways: dict[str, Callable[[Lab, Path], None]] = {"paused": paused, "precopied": precopied}
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    print("way          pause  apart  in all     MiB")
    for _ in range(options.runs):
        for way, save in ways.items():
            with tempfile.TemporaryDirectory(dir=lab.directories.state) as folder:
                watch = Watch(lab.hypervisor().connection.getURI())
                began = time.monotonic()
                save(lab, Path(folder))
                took = time.monotonic() - began
                size = sum(file.stat().st_blocks * 512 for file in Path(folder).iterdir()) / 2**20
                rows[way].append((*watch.result(len(lab.inventory.nodes)), took, size))
            print(f"{way:<10}" + line(rows[way][-1]), flush=True)
            time.sleep(5)  # what was late is caught up with
    for way, measured in rows.items():
        medians = [statistics.median(column) for column in zip(*measured, strict=True)]
        print(f"{way:<10}{line(medians)}  (medians)")


def line(figures: Sequence[float]) -> str:
    """A row of the table."""
    stopped, apart, took, size = figures
    return f"{stopped:>8.2f}{apart:>7.2f}{took:>8.2f}{size:>8.0f}"


if __name__ == "__main__":
    main()
