"""What a lab is made from, as content hashes: by these a snapshot of it is found again, or refused."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.host.probes import emulator
from testbed.images.node import CPU_FEATURES, CPU_MODEL
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.model.proxy import content_hash
from testbed.model.snapshot import FORMAT, Emulated
from testbed.resources import ResourceSet, dump
from testbed.workflows.workloads import workloads_document


@dataclass(frozen=True)
class Identity:
    """``base``: machines, image, guest programs, workloads, host; ``key``: that and what the mesh gets."""

    base: str
    key: str
    emulated: Emulated
    image: str
    """Which build of the image: an image that was built anew has the same key and other blocks."""


def identity_of(lab: Lab, machines: Machines, resources: ResourceSet) -> Identity:
    """The lab's, as its inventory and this host are now.  ``resources`` are the inventory's."""
    emulated = Emulated(
        accelerator="kvm" if machines.kvm else "tcg",
        qemu=emulator.version(),
        machine=emulator.machine_type(),
        cpu=emulator.processor() if machines.kvm else "+".join((CPU_MODEL, *CPU_FEATURES)),
    )
    documents = [workloads_document(lab, node.name) for node in lab.inventory.nodes]
    base = content_hash(str(FORMAT), machines.makings(), emulated.model_dump_json(), *documents)
    mesh = lab.inventory.mesh.model_dump_json(exclude={"resources"})
    return Identity(base, content_hash(base, mesh, dump(resources)), emulated, _build_of(machines))


def _build_of(machines: Machines) -> str:
    try:
        stat = machines.disks.node_image.disk.stat()
    except OSError:
        return ""
    return f"{stat.st_size}-{stat.st_mtime_ns}"
