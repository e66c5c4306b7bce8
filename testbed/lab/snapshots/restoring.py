"""Restoring: each machine starts from its RAM file on a fresh layer over the snapshot's disk.

The snapshot is only read, so it can be restored again and again.  Its disk layers are shared with the lab by hard
links: deleting a snapshot takes nothing from a lab that runs on it.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from testbed.hypervisor.machines import create_overlay
from testbed.hypervisor.memory import cut_power, load_memory, mark, resume
from testbed.hypervisor.xml import METADATA
from testbed.lab.machines import Machines
from testbed.lab.snapshots.saving import each, share
from testbed.lab.snapshots.store import Snapshot, require_space
from testbed.lab.snapshots.thawing import Thawed, thaw

HALF = f"{METADATA}:restoring"
"""The spec that a machine carries from when its RAM is loaded until it is thawed: nobody takes it for whole."""


_OWN_LAYER = 32 * 2**20
"""Bytes that a node's own layer may have taken by the time that the lab is checked: its logs, before all."""


class Restoring:
    """One restore of a snapshot into a lab.  Its methods are the steps, in their order."""

    def __init__(self, machines: Machines, snapshot: Snapshot) -> None:
        self.machines = machines
        self.lab = machines.lab
        self.snapshot = snapshot
        self.thawed: dict[str, Thawed] = {}

    def files(self) -> None:
        """Check every byte of the snapshot, then take the lab's keys from it.

        Raises Damaged, or LabError when the disk has no room for the machines' own layers; with nothing touched.
        """
        self.snapshot.check()
        require_space(self.lab.directories.state, self._needed(), f"restore of {self.snapshot.manifest.name}")
        pki = self.lab.directories.pki
        part = pki.with_name(".pki.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(self.snapshot.folder / "pki", part)
        shutil.rmtree(pki, ignore_errors=True)
        part.rename(pki)
        self.lab.forget_connections()

    def _needed(self) -> int:
        """Bytes: a layer for each node, and those of the snapshot where they can't be shared."""
        manifest, folder = self.snapshot.manifest, self.snapshot.folder
        needed = _OWN_LAYER * len(manifest.nodes)
        if folder.stat().st_dev != self.lab.directories.state.stat().st_dev:
            layers = (folder / name for names in manifest.disks.values() for name in names)
            needed += sum(layer.stat().st_blocks * 512 for layer in layers)
        return needed

    def load(self, node: str) -> None:
        """End the node's machine if it runs, and start it from the snapshot, paused."""
        hypervisor = self.lab.hypervisor()
        volumes = self.lab.directories.volumes
        cut_power(hypervisor, node)
        self.machines.define(node, HALF)  # before its disks go: from here on `up` makes it anew
        for old in volumes.glob(f"{node}.*qcow2"):
            old.unlink()
        layers = self.snapshot.manifest.disks[node]
        for name in layers:
            share(self.snapshot.folder / name, volumes / name)
        # by its name alone: beside a copy of this disk, in a snapshot, lies the same layer
        create_overlay(volumes / f"{node}.qcow2", Path(layers[-1]), "qcow2", self.machines.disk_size(node))
        load_memory(hypervisor, self.machines.definition(node), self.snapshot.folder / f"{node}.ram", HALF)

    def resume(self) -> None:
        """All machines go on at once, their services still stopped."""
        hypervisor = self.lab.hypervisor()
        each(self.snapshot.manifest.nodes, lambda node: resume(hypervisor, node))

    def thaw(self, node: str, cancel: threading.Event) -> None:
        """Bring the node into the present; from here on it is a machine like any other."""
        self.machines.wait(node, cancel)
        self.thawed[node] = thaw(self.lab.connection(node))
        mark(self.lab.hypervisor(), node, self.machines.specs()[node])
