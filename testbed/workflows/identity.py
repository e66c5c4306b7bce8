"""What a lab is made from, as content hashes: by these a snapshot of it is found again, or refused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from testbed.host.directories import cache_root
from testbed.host.probes import emulator
from testbed.images.node import CPU_FEATURES, CPU_MODEL
from testbed.lab.disks import Disks
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.snapshots.store import data_checksum
from testbed.model.proxy import content_hash
from testbed.model.snapshot import FORMAT, Emulated
from testbed.pki.credentials import fingerprint
from testbed.resources import ResourceSet, dump
from testbed.workflows.authority import require_ca
from testbed.workflows.cluster import wanted_cluster
from testbed.workflows.registries import registries_access
from testbed.workflows.workloads import workloads_document

_CHECKSUM = "2"
"""Raised when checksums of before are not those of now."""


@dataclass(frozen=True)
class Identity:
    """``base``: machines, image, guest programs, workloads, host; ``key``: that and what the mesh gets."""

    base: str
    key: str
    emulated: Emulated
    media: str
    """Checksum of the image and the shared disk: built anew they have the same keys and other blocks."""


def identity_of(lab: Lab, machines: Machines, resources: ResourceSet) -> Identity:
    """The lab's, as its inventory and this host are now.  ``resources`` are the inventory's."""
    emulated = Emulated(
        accelerator="kvm" if machines.kvm else "tcg",
        qemu=emulator.version(),
        machine=emulator.machine_type(),
        cpu=emulator.processor() if machines.kvm else "+".join((CPU_MODEL, *CPU_FEATURES)),
    )
    documents = [workloads_document(lab, node.name) for node in lab.inventory.nodes]
    given = require_ca(lab)
    ca = () if given is None else (fingerprint(given.certificate),)  # one of the lab's own comes with a snapshot
    parts = (*documents, *ca, *_of_cluster(lab))
    base = content_hash(str(FORMAT), machines.makings(), emulated.model_dump_json(), *parts)
    mesh = lab.inventory.mesh.model_dump_json(exclude={"resources"})
    return Identity(base, content_hash(base, mesh, dump(resources)), emulated, media_of(machines.disks))


def _of_cluster(lab: Lab) -> tuple[str, ...]:
    """What is installed on the cluster's nodes and in it; nothing where there is none."""
    cluster = wanted_cluster(lab.inventory, registries_access(lab.inventory, lab.file), lab.began_with)
    return () if cluster is None else (*cluster.nodes.values(), cluster.control_plane, cluster.pods)


def media_of(disks: Disks) -> str:
    """The checksum of what nodes only read, as this host has it."""
    return content_hash(content_of(disks.node_image.disk), content_of(disks.shared))


def content_of(disk: Path) -> str:
    """A disk's checksum, kept in the cache for as long as it is the same file; empty when there is none."""
    kept = cache_root() / "checksums" / content_hash(_CHECKSUM, str(disk))
    try:
        stat = disk.stat()
        known = kept.read_text().split() if kept.exists() else []
        if known[1:] == [str(stat.st_size), str(stat.st_mtime_ns)]:
            return known[0]
        checksum = data_checksum(disk)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}")
        part.write_text(f"{checksum} {stat.st_size} {stat.st_mtime_ns}\n")
        part.rename(kept)
    except FileNotFoundError:
        return ""
    return checksum
