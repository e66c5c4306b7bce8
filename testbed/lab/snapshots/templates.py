"""Templates: one machine's RAM image that nodes of the same hardware start from, each as itself.

A template is made in a lab of its own with one node, and kept in the cache as a snapshot of that lab: whole or not
there, found damaged by its checksums, refused where it can't run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from testbed import log
from testbed.errors import LabError
from testbed.host.directories import cache_root
from testbed.hypervisor.cloning import clone
from testbed.hypervisor.machines import create_overlay
from testbed.hypervisor.memory import cut_power, mark, pause, resume, save_memory
from testbed.hypervisor.xml import Machine
from testbed.lab.lab import Lab
from testbed.lab.machines import MANAGEMENT, MESH, Machines
from testbed.lab.snapshots.restoring import HALF
from testbed.lab.snapshots.saving import copy_disk, layer_file, share
from testbed.lab.snapshots.store import Damaged, Snapshot, SnapshotStore, require_space
from testbed.lab.snapshots.thawing import thaw
from testbed.model.inventory import Inventory, Node
from testbed.model.proxy import content_hash
from testbed.waiting import NotYet, wait_until

_log = log.get("lab")

NODE = "template"
"""The one node of a template's lab."""
ID = "template."
"""What the ids of templates' labs begin with."""
READY = "testbed: this machine is a template"
"""What it says on its console when it can be saved."""
READY_LIMIT = 120.0
MEMORY = f"{NODE}.ram"
CLONE_LIMIT = 90.0
"""Seconds for a clone to answer: it takes some, and many times as long on a busy host; after it, it is booted."""
OWN_LAYER = 32 * 2**20
"""Bytes that a clone's own layer may take before anything runs on it."""
_START = (
    "setsid python3 -ISE -X pycache_prefix=/run/testbed-pycache -c "
    "'import sys; sys.path.insert(0, \"/opt/testbed/node\"); import testbed_clone; testbed_clone.stay()' "
    ">/dev/null 2>/run/testbed-clone.log </dev/null &"
)


def template_store(home: str = NODE) -> SnapshotStore:
    """The templates in the cache; ``home`` is the lab in which one is made, whose lock is held then."""
    return SnapshotStore(cache_root() / "templates", home)


def template_lab(lab: Lab, node: Node) -> Lab:
    """The lab in which the template of ``node`` is made: one node of its hardware, with no workload.

    Its id is none that an inventory can have.
    """
    image = lab.inventory.image
    shape = content_hash(image.model_dump_json(), str(node.vcpus), str(node.memory), str(node.disk))
    plain = Node(name=NODE)
    single = plain.model_copy(update={"vcpus": node.vcpus, "memory": node.memory, "disk": node.disk})
    return Lab(Inventory(id=NODE, image=image, nodes=[single]).model_copy(update={"id": f"{ID}{shape[:8]}"}))


def boot_template(machines: Machines, cancel: threading.Event) -> None:
    """Boot the one machine of a template's lab, whose daemon runs, and make a template of it: paused at the end."""
    lab = machines.lab
    for role in (MANAGEMENT, MESH):
        machines.define_network(role)
    machines.create(NODE)
    machines.start(NODE)
    machines.wait(NODE, cancel)
    connection = lab.connection(NODE)
    connection.run(["systemctl", "is-system-running", "--wait"], limit=READY_LIMIT, check=False)
    connection.run(["sh", "-c", _START])
    connection.close()
    console = lab.directories.consoles / f"{NODE}.log"

    def ready() -> None:
        if READY not in console.read_text(errors="replace"):
            raise NotYet("it has not said so on its console")

    wait_until(f"{NODE} is ready to be saved", ready, limit=READY_LIMIT, interval=0.1, cancel=cancel)
    pause(lab.hypervisor(), NODE)


def save_template(machines: Machines, folder: Path) -> dict[str, tuple[str, ...]]:
    """Write the RAM and the disk of a machine that :func:`boot_template` left into ``folder``; its layers."""
    save_memory(machines.lab.hypervisor(), NODE, folder / MEMORY)
    return {NODE: copy_disk(machines.lab, NODE, (), folder)}


class Cloning:
    """Nodes of a lab that start from templates, or are booted where that fails: each says why in :attr:`booted`."""

    def __init__(self, machines: Machines, templates: Mapping[str, Snapshot]) -> None:
        """``templates``: node -> the template that fits it, of those that there are already."""
        self.machines = machines
        self.lab = machines.lab
        self.templates = dict(templates)
        self.booted: dict[str, str] = {}
        """Node -> why it was booted after all."""
        self._unmade: dict[str, LabError] = {}
        self._silent: dict[Path, set[str]] = {}
        self._whole: dict[Path, LabError | None] = {}
        self._checking = threading.Lock()

    def made(self, nodes: Iterable[str], template: Snapshot | LabError) -> None:
        """``nodes`` start from a template that has just been made, or can't be: then they are booted."""
        for node in nodes:
            if isinstance(template, Snapshot):
                self.templates[node] = template
            else:
                self._unmade[node] = template

    def start(self, node: str) -> None:
        """Start the node from its template's memory, on a layer of its own over the template's disk."""
        try:
            if (trouble := self._unmade.get(node)) is not None:
                raise trouble
            machine = self._lay(node)
        except LabError as e:
            self._boot(node, e)
            return
        try:
            clone(self.lab.hypervisor(), machine, HALF, self.templates[node].folder / MEMORY)
            resume(self.lab.hypervisor(), node)
        except LabError as e:
            self._blame(node)
            self._boot(node, e)

    def wait(self, node: str, cancel: threading.Event) -> None:
        """Wait until it answers as itself, and set its clock; from here on it is a machine like any other."""
        if node not in self.booted:
            try:
                self.machines.wait(node, cancel, CLONE_LIMIT)
                thaw(self.lab.connection(node))
                mark(self.lab.hypervisor(), node, self.machines.specs()[node])
                return
            except LabError as e:
                self._blame(node)
                self._boot(node, e)
        self.machines.wait(node, cancel)

    def _blame(self, node: str) -> None:
        """A template of which no node came up is deleted: the next `up` would wait for its clones as long again."""
        template = self.templates[node]
        of_it = {n for n, t in self.templates.items() if t.folder == template.folder}
        with self._checking:
            silent = self._silent.setdefault(template.folder, set())
            silent.add(node)
            if silent == of_it:
                template_store().delete(template, in_use=True)

    def _lay(self, node: str) -> Machine:
        """Define it, with a disk and a seed of its own; the machine."""
        template = self.templates[node]
        self._check(template)
        volumes = self.lab.directories.volumes
        self.machines.define(node, HALF)  # until it has answered: `up` makes it anew if this is cut short
        machine = self.machines.definition(node)
        machine.console.unlink(missing_ok=True)
        for old in volumes.glob(f"{node}.*qcow2"):
            old.unlink()
        memory, layer = template.folder / MEMORY, layer_file(node, 0)
        require_space(volumes, memory.stat().st_size + OWN_LAYER, f"clone {node}")
        share(template.folder / layer_file(NODE, 0), volumes / layer)
        create_overlay(machine.disk, Path(layer), "qcow2", self.machines.disk_size(node))
        self.lab.connection(node).close()  # one that was kept leads to a machine that is no more
        return machine

    def _check(self, template: Snapshot) -> None:
        """Compare it with its checksums, once for all nodes.  A damaged one is deleted."""
        with self._checking:
            if template.folder not in self._whole:
                self._whole[template.folder] = None
                try:
                    template.check()
                except Damaged as e:
                    self._whole[template.folder] = e
                    template_store().delete(template, in_use=True)
            if (damage := self._whole[template.folder]) is not None:
                raise damage

    def _boot(self, node: str, why: LabError) -> None:
        _log.warning("clone failed", node=node, error=str(why))
        self.booted[node] = str(why)
        cut_power(self.lab.hypervisor(), node)
        self.machines.create(node)
        self.machines.start(node)
