"""The image cache: whole images or none, built once; and the initrd's archive."""

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from testbed.images import cpio
from testbed.images.build import building, initrd
from testbed.images.shared import build_shared, shared_key


def test_a_failed_build_leaves_no_image(tmp_path):
    with pytest.raises(RuntimeError), building(tmp_path / "key") as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == [".key.lock"]


def test_what_a_killed_builder_left_is_removed(tmp_path):
    (tmp_path / ".key.tmp-dead").mkdir()
    with building(tmp_path / "key") as work:
        (work / "disk").write_text("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".key.lock", "key"]


def test_an_image_is_built_once_by_two_builders(tmp_path):
    built = []

    def build():
        with building(tmp_path / "key") as work:
            if work is not None:
                built.append(work)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (tmp_path / "key").is_dir()


def test_the_archive_is_what_cpio_reads(tmp_path):
    data = initrd(b"#!/bin/sh\n", b"busybox", {"b.ko": b"bb", "a.ko": b"a"})
    listed = subprocess.run(["cpio", "-it", "--quiet"], input=data, capture_output=True, check=True)
    assert {"init", "bin/busybox", "bin/sh", "modules/order"} <= set(listed.stdout.decode().split())
    subprocess.run(["cpio", "-id", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "modules/order").read_text() == "b.ko\na.ko\n"
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")
    assert os.access(tmp_path / "init", os.X_OK)


def test_the_same_entries_give_the_same_archive():
    entries = [cpio.directory("a"), cpio.file("a/b", b"c")]
    assert cpio.archive(entries) == cpio.archive(entries)
    assert len(cpio.archive(entries)) % 4 == 0


def test_the_shared_disk_holds_envoy_and_the_tree(tmp_path):
    envoy = tmp_path / "envoy-1/envoy"
    envoy.parent.mkdir()
    envoy.write_bytes(b"program" * 1000)
    tree = tmp_path / "tree"
    (tree / "node").mkdir(parents=True)
    (tree / "node/tool.py").write_text("print()\n")
    disk = build_shared(envoy, tree, tmp_path / "cache")
    shown = subprocess.run(
        ["debugfs", "-R", "stat /bin/envoy", str(disk)], capture_output=True, text=True, check=True
    )
    assert "Size: 7000" in shown.stdout
    assert "Mode:  0755" in shown.stdout
    listed = subprocess.run(["debugfs", "-R", "ls /node", str(disk)], capture_output=True, text=True, check=True)
    assert "tool.py" in listed.stdout
    changed = disk.stat().st_mtime_ns
    assert build_shared(envoy, tree, tmp_path / "cache").stat().st_mtime_ns == changed
    before = shared_key(envoy, tree)
    (tree / "node/tool.py").write_text("pass\n")
    assert shared_key(envoy, tree) != before
    assert stat.S_ISREG(Path(disk).stat().st_mode)


def test_the_shared_disk_carries_releases_and_is_another_one_for_another_version(tmp_path):
    for path in ("envoy-1/envoy", "k3s/v1/k3s", "k3s/v2/k3s"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"program" * 1000)
        (tmp_path / path).chmod(0o755)
    (tmp_path / "tree").mkdir()
    envoy, releases = tmp_path / "envoy-1/envoy", {"k3s/k3s": tmp_path / "k3s/v1/k3s"}
    disk = build_shared(envoy, tmp_path / "tree", tmp_path / "cache", releases)
    shown = subprocess.run(
        ["debugfs", "-R", "stat /k3s/k3s", str(disk)], capture_output=True, text=True, check=True
    )
    assert "Size: 7000" in shown.stdout
    assert "Mode:  0755" in shown.stdout
    keys = {shared_key(envoy, tmp_path / "tree", r) for r in (releases, {"k3s/k3s": tmp_path / "k3s/v2/k3s"}, {})}
    assert len(keys) == 3
