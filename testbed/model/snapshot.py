"""What a snapshot says of itself: its manifest.

A RAM image runs only on the hardware that it was made on, as QEMU shows it to the guest; the manifest names that,
so that an image from elsewhere is refused with a reason and not by a guest that crashes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 2
"""Raised when snapshots of before can't be read any more."""


CLUSTER_LIFE = timedelta(hours=8)
"""For so long a snapshot of a cluster can be restored.  Istio's certificates live for a day and are renewed after
half of it, by a timer that stands still with the machine: after a longer sleep they would run out first
(istio/ztunnel#1481 has what comes of it)."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Emulated(_Model):
    """What a RAM image depends on, beyond the machine's own definition."""

    accelerator: Literal["kvm", "tcg"]
    qemu: str
    """QEMU's version."""
    machine: str
    """The versioned machine type, such as ``pc-i440fx-7.2``."""
    cpu: str
    """The guest's processor: QEMU's model, or the host's own where that is passed through."""


class SnapshotFile(_Model):
    """One file of a snapshot."""

    size: int
    """In bytes; holes count."""
    checksum: str
    """XXH3, 128 bits, in hexadecimal: finds damage, not malice."""


class Manifest(_Model):
    """``manifest.json``: written last, so a snapshot that has one is whole."""

    format: int = FORMAT
    lab: str
    name: str
    saved: datetime
    base: str
    """Content hash of everything that the machines and what runs on them were made from."""
    key: str
    """Content hash of that and of the resources that the inventory puts into the mesh."""
    emulated: Emulated
    media: str
    """Checksum of what its machines only read, the image below their disks and the shared disk: one built anew of
    the same makings has other blocks."""
    inventory: str
    """The inventory, as JSON."""
    resources: str
    """The resources in the mesh, as YAML."""
    revision: str
    """The lab's revision."""
    verified: str = ""
    """The scenario that had just passed when it was saved; empty when none was asked."""
    nodes: tuple[str, ...]
    disks: dict[str, tuple[str, ...]]
    """Node -> its disk's layers in the snapshot, lowest first; below them lies the image."""
    scale: dict[str, int] = {}
    """Workload -> its instances, where these are not the inventory's."""
    releases: dict[str, str] = {}
    """Product -> version on its machines' shared disk, where that has releases: an upgraded lab's are older."""
    pause: float
    """How long the machines stood still for it, in seconds."""
    standing: float = 0.0
    """How long its services stood still, from the first one's stop until the last one went on, in seconds."""
    apart: float = 0.0
    """Seconds between the first and the last machine's stop."""
    files: dict[str, SnapshotFile]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(f.size for f in self.files.values())


def run_out(manifest: Manifest, now: datetime, *, cluster: bool) -> str:
    """Why a snapshot is too old by ``now``, or empty: what a cluster's workloads prove themselves with runs out."""
    age = now - manifest.saved
    if not cluster or age <= CLUSTER_LIFE:
        return ""
    hours = age.total_seconds() / 3600
    limit = CLUSTER_LIFE.total_seconds() / 3600
    return f"it was saved {hours:.1f} hours ago: certificates in a cluster run out, it is good for {limit:g} hours"


def misfit(manifest: Manifest, base: str, emulated: Emulated, media: str) -> str:
    """Why a snapshot can't run here, or empty: ``base``, ``emulated`` and ``media`` are those of this lab here."""
    if why := unlike(manifest, base, emulated):
        return why
    if manifest.media != media:
        return "the image or the shared disk that its machines read is another here: built anew since, or elsewhere"
    return ""


def unlike(manifest: Manifest, base: str, emulated: Emulated) -> str:
    """Why a snapshot can't run on this host, whatever images there are; empty when it can."""
    saved = manifest.emulated
    if manifest.format != FORMAT:
        return f"its format is {manifest.format}, this version reads {FORMAT}"
    if saved.accelerator != emulated.accelerator:
        return f"it was saved under {saved.accelerator}, this host has {emulated.accelerator}: memory differs"
    for what, was, here in (
        ("QEMU", saved.qemu, emulated.qemu),
        ("machine type", saved.machine, emulated.machine),
        ("processor", saved.cpu, emulated.cpu),
    ):
        if was != here:
            return f"it was saved with {what} {was}, this host has {here}"
    if manifest.base != base:
        return "the inventory, the image or Testbed itself is another now than when it was saved"
    return ""
