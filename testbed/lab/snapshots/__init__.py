"""Snapshots of a whole lab: RAM, disks, keys, and what is in the mesh."""

from testbed.lab.snapshots.parcel import Media, export, import_
from testbed.lab.snapshots.restoring import Restoring
from testbed.lab.snapshots.saving import Saved, each, go_on, save_machines
from testbed.lab.snapshots.store import Damaged, Snapshot, SnapshotStore, cache_store, named_store
from testbed.lab.snapshots.templates import Cloning, template_store
from testbed.lab.snapshots.thawing import Thawed, ask, thaw

__all__ = [
    "Cloning",
    "Damaged",
    "Media",
    "Restoring",
    "Saved",
    "Snapshot",
    "SnapshotStore",
    "Thawed",
    "ask",
    "cache_store",
    "each",
    "export",
    "go_on",
    "import_",
    "named_store",
    "save_machines",
    "template_store",
    "thaw",
]
