"""Killed at any change that it makes to the disk, a save leaves no half snapshot, and a restore a whole one."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from test_snapshots import save

from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.snapshots import Restoring
from testbed.lab.snapshots.store import SnapshotStore
from testbed.model.reading import read_inventory

CHANGES = [(Path, "mkdir"), (Path, "rename"), (Path, "write_text"), (Path, "write_bytes"), (Path, "unlink")]
CHANGES += [(shutil, "rmtree"), (shutil, "copytree"), (shutil, "copy2")]


def killed_at(number, work):
    """Whether ``work``, in a process of its own, was killed before its change ``number``, counted from 0."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _kill_before(number)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def _kill_before(number):
    seen = iter(range(number))

    def counting(change):
        def counted(*arguments, **options):
            if next(seen, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **options)

        return counted

    for owner, name in CHANGES:
        setattr(owner, name, counting(getattr(owner, name)))


@pytest.mark.parametrize("before", [None, b"old"], ids=["new", "again"])
def test_a_save_that_is_killed_leaves_no_half_snapshot(tmp_path, before):
    for number in range(100):
        store = SnapshotStore(tmp_path / str(number), "lab")
        if before:
            save(store, "first", before)
        killed = killed_at(number, lambda store=store: save(store, "first", b"new"))
        for snapshot in store.all():
            snapshot.check()
            assert (snapshot.folder / "left.ram").read_bytes() in (before, b"new")
        save(store, "second")
        assert sorted(p.name for p in store.root.iterdir() if p.name == ".lab.part") == []
        if not killed:
            assert [s.manifest.name for s in store.all()] == ["second", "first"]
            break
    assert number > 5


def test_a_restore_that_is_killed_leaves_the_snapshot_and_the_next_one_has_its_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    snapshot = save(SnapshotStore(tmp_path / "store", "lab"), "first")
    (snapshot.folder / "left.0.qcow2").write_bytes(b"")
    lab = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))
    for number in range(100):
        lab.directories.create()
        (lab.directories.pki / "key").write_text("the lab's own")
        killed = killed_at(number, lambda: Restoring(Machines(lab, kvm=False), snapshot).files())
        snapshot.check()
        Restoring(Machines(lab, kvm=False), snapshot).files()
        assert (lab.directories.pki / "key").read_text() == "secret"
        assert not lab.directories.pki.with_name(".pki.part").exists()
        if not killed:
            break
    assert number > 2
