"""On a disk that is really full, nothing is written and nothing that is there is touched."""

import os
import subprocess

import pytest
from test_snapshots import save

from testbed.errors import LabError
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.snapshots import Restoring
from testbed.lab.snapshots.store import SnapshotStore
from testbed.model.reading import read_inventory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small disk of its own")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A disk of 40 MiB with no room left on it, and what gives a share of it back."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
    full = disk / "full"
    try:
        subprocess.run(["fallocate", "-l", "40M", str(full)], check=True)
        yield disk, full.unlink
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_save_says_so_and_leaves_no_byte(small):
    disk, free = small
    with pytest.raises(LabError, match=r"snapshot first: make room for it: .* has 0 MiB free"):
        save(SnapshotStore(disk, "lab"), "first")
    assert [p.name for p in disk.iterdir()] == ["full"]
    free()
    save(SnapshotStore(disk, "lab"), "first").check()


def test_a_restore_says_so_and_leaves_the_snapshot_and_the_labs_own_keys(small, tmp_path, monkeypatch):
    disk, free = small
    free()
    monkeypatch.setenv("XDG_STATE_HOME", str(disk))
    snapshot = save(SnapshotStore(tmp_path / "store", "lab"), "first")
    (snapshot.folder / "left.0.qcow2").write_bytes(b"")
    lab = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))
    lab.directories.create()
    key = lab.directories.pki / "key"
    key.write_text("the lab's own")
    room = os.statvfs(disk)
    subprocess.run(["fallocate", "-l", str(room.f_bavail * room.f_frsize), str(disk / "full")], check=True)
    restoring = Restoring(Machines(lab, kvm=False), snapshot)
    with pytest.raises(LabError, match=r"restore of first: make room for it: .* has 0 MiB free"):
        restoring.files()
    snapshot.check()
    assert key.read_text() == "the lab's own"
    (disk / "full").unlink()
    restoring.files()
    assert (lab.directories.pki / "key").read_text() == "secret"
