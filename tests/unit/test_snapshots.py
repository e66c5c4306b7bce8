"""A snapshot is whole or not there, is found damaged by its checksums, and refused where it can't run."""

import os
import runpy
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from testbed.errors import BadInput, LabError, WaitTimeout, bad_input
from testbed.guests.ssh import NotReachable
from testbed.host.directories import testbed_home as home
from testbed.images.node import NodeImage
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.snapshots import Restoring, go_on, saving
from testbed.lab.snapshots.parcel import Media, export, import_
from testbed.lab.snapshots.saving import backing_file, share
from testbed.lab.snapshots.store import Damaged, SnapshotStore, cache_store, checksums, data_checksum
from testbed.model.reading import read_inventory
from testbed.model.snapshot import FORMAT, Emulated, Manifest, misfit, run_out
from testbed.resources import ResourceSet
from testbed.workflows.identity import Identity, identity_of
from testbed.workflows.snapshot import in_cache

HERE = Emulated(accelerator="tcg", qemu="7.2.9", machine="pc-i440fx-7.2", cpu="qemu64")


def manifest(name, files, **changes):
    values = {
        "lab": "lab",
        "name": name,
        "saved": datetime.now(UTC),
        "base": "b1",
        "key": "k1",
        "emulated": HERE,
        "media": "i1",
        "inventory": "{}",
        "resources": "",
        "revision": "r1",
        "nodes": ("left",),
        "disks": {"left": ("left.0.qcow2",)},
        "pause": 1.0,
        "files": files,
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def store(tmp_path):
    return SnapshotStore(tmp_path / "store", "lab")


def save(store, name, content=b"memory" * 1000):
    with store.saving(name, 1) as (folder, complete):
        (folder / "left.ram").write_bytes(content)
        (folder / "pki").mkdir()
        (folder / "pki" / "key").write_text("secret")
        return complete(manifest(name, checksums(folder, ["left.ram", "pki/key"])))


def test_what_was_saved_is_found_and_whole(store):
    save(store, "first")
    found = store.get("first")
    found.check()
    assert found.manifest.nodes == ("left",)
    assert [s.manifest.name for s in store.all()] == ["first"]
    assert store.root.stat().st_mode & 0o077 == 0


def test_a_save_that_fails_leaves_nothing_and_keeps_the_one_before(store):
    save(store, "first", b"old")
    with pytest.raises(RuntimeError), store.saving("first", 1) as (folder, _):
        (folder / "left.ram").write_bytes(b"half")
        raise RuntimeError
    assert [p.name for p in store.root.iterdir()] == ["first"]
    assert (store.get("first").folder / "left.ram").read_bytes() == b"old"


def test_what_a_killed_save_left_is_no_snapshot_and_goes_with_the_next_save(store):
    store.root.mkdir()
    left = store.root / ".lab.part"
    left.mkdir()
    (left / "manifest.json").write_text(manifest("half", {}).model_dump_json())
    assert store.all() == []
    save(store, "first")
    assert not left.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "has 5999 bytes of 6000"),
        (lambda f: f.write_bytes(b"M" + f.read_bytes()[1:]), "is not what was saved"),
        (lambda f: f.unlink(), "is missing"),
    ],
    ids=["cut", "changed", "gone"],
)
def test_damage_is_found(store, damage, said):
    snapshot = save(store, "first")
    damage(snapshot.folder / "left.ram")
    with pytest.raises(Damaged, match=said):
        snapshot.check()


def test_a_full_disk_is_said_before_anything_is_written(store):
    with pytest.raises(LabError, match="MiB free"), store.saving("first", 1 << 60):
        pass
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("same_disk", [True, False], ids=["shared", "copied"])
def test_a_restore_on_a_full_disk_is_refused_before_anything_is_touched(store, monkeypatch, tmp_path, same_disk):
    snapshot = save(store, "first")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path if same_disk else "/dev/shm"))
    lab = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))
    lab.directories.create()
    kept = lab.directories.pki / "key"
    kept.write_text("the lab's own")
    usage = namedtuple("usage", "free")
    layer = snapshot.folder / "left.0.qcow2"
    layer.write_bytes(os.urandom(1 << 20))
    restoring = Restoring(Machines(lab, kvm=False), snapshot)
    try:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(32 * 2**20))  # a layer's, and no byte for a copy
        if same_disk:
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(32 * 2**20 - 1))
        with pytest.raises(LabError, match=r"restore of first: make room for it: .* MiB free"):
            restoring.files()
        assert kept.read_text() == "the lab's own"
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(34 * 2**20))
        restoring.files()
        assert (lab.directories.pki / "key").read_text() == "secret"
    finally:
        lab.directories.remove()


def test_a_save_freezes_no_more_than_a_thaw_lets_go_on(monkeypatch):
    """What stays frozen stops everything that systemd starts there later."""
    node = home() / "images" / "shared" / "node"
    monkeypatch.setattr(sys, "path", [str(node), *sys.path])
    thawed = runpy.run_path(str(node / "testbed_thaw.py"))["SLICES"]
    lines = (node / "freeze.sh").read_text().splitlines()
    told = "\n".join(line for line in lines if line.startswith(("groups=", "slices=", "folders=")))
    said = subprocess.run(
        ["sh", "-c", f'{told}\nset -f; printf "%s\\n" $folders'], capture_output=True, text=True, check=True
    )
    assert [pattern.replace("*", "\\x2d") for pattern in said.stdout.split()] == thawed


def test_a_snapshot_of_a_cluster_is_good_until_certificates_in_it_could_run_out():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    saved = manifest("first", {}).model_copy(update={"saved": at})
    assert run_out(saved, at + timedelta(days=99), cluster=False) == ""
    assert run_out(saved, at + timedelta(hours=8), cluster=True) == ""
    assert run_out(saved, at + timedelta(hours=8.5), cluster=True) == (
        "it was saved 8.5 hours ago: certificates in a cluster run out, it is good for 8 hours"
    )


@pytest.mark.parametrize("trouble", [NotReachable, WaitTimeout, LabError])
def test_where_the_program_that_waits_can_not_let_services_go_on_a_shell_does(monkeypatch, trouble):
    class Connection:
        ran = ()

        def connect(self):
            self.connected = time.time()

        def run(self, argv):
            self.ran = argv

    def fail(*_):
        raise WaitTimeout("left", 30, "") if trouble is WaitTimeout else trouble("left", "go on", "no")

    made = Connection()
    monkeypatch.setattr(saving, "ask", fail)
    go_on(SimpleNamespace(connection=lambda node: made), "left")
    assert made.ran[:-1] == [*saving.FREEZE, "off"]
    assert float(made.ran[-1]) >= made.connected - 0.001  # told after connecting, which takes a while


def test_an_unknown_name_is_answered_with_those_there_are(store):
    save(store, "first")
    with pytest.raises(BadInput) as refused:
        store.get("second")
    assert "first" in refused.value.next_step


@pytest.mark.parametrize("name", ["", "../elsewhere", ".hidden", "a/b", "x" * 65])
def test_a_name_is_no_path(store, name):
    with pytest.raises(BadInput, match="no name for a snapshot"), store.saving(name, 1):
        pass
    with pytest.raises(BadInput, match="no name for a snapshot"):
        store.get(name)


def test_the_least_recently_used_goes_first(store):
    for number, name in enumerate(("a", "b", "c")):
        os.utime(save(store, name, os.urandom(1 << 20)).folder / "manifest.json", (number, number))
    gone = store.evict(int(2.5 * (1 << 20)))
    assert [s.manifest.name for s in gone] == ["a"]
    assert [s.manifest.name for s in store.all()] == ["c", "b"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"emulated": HERE.model_copy(update={"accelerator": "kvm"})}, "saved under kvm, this host has tcg"),
        ({"emulated": HERE.model_copy(update={"qemu": "8.2"})}, "QEMU 8.2"),
        ({"emulated": HERE.model_copy(update={"machine": "pc-i440fx-8.2"})}, "machine type pc-i440fx-8.2"),
        ({"emulated": HERE.model_copy(update={"cpu": "Haswell"})}, "processor Haswell"),
        ({"base": "b2"}, "inventory"),
        ({"media": "i2"}, "built anew"),
        ({"format": FORMAT + 1}, "format"),
    ],
)
def test_what_can_not_run_here_is_refused_with_the_reason(changes, said):
    assert misfit(manifest("m", {}), "b1", HERE, "i1") == ""
    assert said in misfit(manifest("m", {}, **changes), "b1", HERE, "i1")


def test_layers_are_shared_and_outlive_the_snapshot(store, tmp_path):
    snapshot = save(store, "first")
    share(snapshot.folder / "left.ram", tmp_path / "lab.ram")
    store.delete(snapshot)
    assert store.all() == []
    assert (tmp_path / "lab.ram").read_bytes() == b"memory" * 1000


def test_a_disk_says_what_it_lies_on(tmp_path):
    for name, base in (("base", ()), ("top", ("-b", "base.qcow2", "-F", "qcow2"))):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *base, str(tmp_path / f"{name}.qcow2"), "1M"], check=True
        )
    assert backing_file(tmp_path / "top.qcow2") == "base.qcow2"


def media(root, content=None):
    """An image and a shared disk below ``root``, there when ``content`` is given."""
    image, shared = root / "images" / "k1" / "disk.raw", root / "shared" / "k2" / "disk.raw"
    for disk in (image, shared) if content else ():
        disk.parent.mkdir(parents=True)
        with disk.open("wb") as file:
            file.write(content)
            file.truncate(1 << 20)
    if content:
        (image.parent / "vmlinuz").write_bytes(b"kernel")
    return Media(NodeImage("k1", image, "raw", 1 << 20), shared)


def layer_over(image, layer):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", layer], check=True)


def save_disk(store, name, image):
    """A snapshot whose only file is a layer over ``image``."""
    with store.saving(name, 1) as (folder, complete):
        layer_over(image, folder / "left.0.qcow2")
        return complete(manifest(name, checksums(folder, ["left.0.qcow2"])))


def test_an_exported_snapshot_is_imported_whole_and_under_another_name(store, tmp_path):
    here = media(tmp_path / "here", b"root")
    file = tmp_path / "lab.snapshot"
    assert export(save_disk(store, "first", here.image.disk), here, file) == file.stat().st_size
    assert file.stat().st_mode & 0o077 == 0
    with pytest.raises(BadInput, match="of that name"):
        import_(store, file, here)
    made = import_(store, file, here, "second")
    made.check()
    assert made.manifest.name == "second"
    assert made.manifest.files == store.get("first").manifest.files


def test_elsewhere_it_brings_what_its_machines_read_and_lies_on_that(store, tmp_path):
    here, there = media(tmp_path / "here", b"root"), media(tmp_path / "there")
    file = tmp_path / "lab.snapshot"
    export(save_disk(store, "first", here.image.disk), here, file)
    made = import_(SnapshotStore(tmp_path / "other", "lab"), file, there)
    made.check()
    assert backing_file(made.folder / "left.0.qcow2") == str(there.image.disk)
    assert (there.image.disk.parent / "vmlinuz").read_bytes() == b"kernel"
    for disk, copy in ((here.image.disk, there.image.disk), (here.shared, there.shared)):
        assert copy.read_bytes() == disk.read_bytes()
        assert copy.stat().st_blocks <= 128 + 8  # one block of the copy's, not what zeros take
        assert data_checksum(copy) == data_checksum(disk)
    assert sorted(p.name for p in made.folder.iterdir()) == ["left.0.qcow2", "manifest.json"]


def test_layers_that_clones_have_in_common_are_handed_on_once(store, tmp_path):
    here, there = media(tmp_path / "here", b"root"), media(tmp_path / "there")
    file = tmp_path / "lab.snapshot"
    lowest = {n: (f"{n}.0.qcow2",) for n in ("left", "right")}
    with store.saving("clones", 1) as (folder, complete):
        layer_over(here.image.disk, folder / "left.0.qcow2")
        (folder / "right.0.qcow2").hardlink_to(folder / "left.0.qcow2")
        saved = complete(manifest("clones", checksums(folder, ["left.0.qcow2", "right.0.qcow2"]), disks=lowest))
    export(saved, here, file)
    made = import_(SnapshotStore(tmp_path / "other", "lab"), file, there)
    made.check()
    left, right = (made.folder / f"{n}.0.qcow2" for n in ("left", "right"))
    assert left.samefile(right)
    assert backing_file(right) == str(there.image.disk)


def test_a_cache_that_has_them_keeps_its_own(store, tmp_path):
    here, there = media(tmp_path / "here", b"root"), media(tmp_path / "there", b"another")
    file = tmp_path / "lab.snapshot"
    export(save_disk(store, "first", here.image.disk), here, file)
    import_(SnapshotStore(tmp_path / "other", "lab"), file, there)
    assert there.image.disk.read_bytes().startswith(b"another")


def test_an_import_that_is_refused_reads_no_further(store, tmp_path):
    here, there = media(tmp_path / "here", b"root"), media(tmp_path / "there")
    file = tmp_path / "lab.snapshot"
    export(save_disk(store, "first", here.image.disk), here, file)

    def check(manifest):
        raise bad_input("lab.snapshot", f"{manifest.base} is another")

    with pytest.raises(BadInput, match="b1 is another"):
        import_(SnapshotStore(tmp_path / "other", "lab"), file, there, check=check)
    assert not (tmp_path / "other").exists() and not (tmp_path / "there").exists()


def test_a_disks_checksum_is_of_its_bytes_whatever_is_a_hole(tmp_path):
    sparse, full, other = tmp_path / "sparse", tmp_path / "full", tmp_path / "other"
    for file, place in ((sparse, 300_000), (other, 300_001)):
        with file.open("wb") as out:
            out.truncate(1_000_000)
            out.seek(place)
            out.write(b"data")
    full.write_bytes(sparse.read_bytes())
    assert full.stat().st_blocks > sparse.stat().st_blocks
    assert data_checksum(full) == data_checksum(sparse) != data_checksum(other)
    with sparse.open("ab") as longer:
        longer.truncate(1_000_001)
    assert data_checksum(sparse) != data_checksum(full)


@pytest.mark.parametrize("cut", [0, 10, 100, -2000])
def test_an_export_that_is_cut_short_is_refused_and_leaves_nothing(store, tmp_path, cut):
    here, there = media(tmp_path / "here", os.urandom(100_000)), media(tmp_path / "there")
    file = tmp_path / "lab.snapshot"
    export(save_disk(store, "first", here.image.disk), here, file)
    store.delete(store.get("first"))
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BadInput, match="export"):
        import_(store, file, there)
    assert [p.name for p in store.root.iterdir()] == []
    assert not (tmp_path / "there").exists()


def test_an_export_of_another_lab_or_of_nothing_is_refused(store, tmp_path):
    file = tmp_path / "lab.snapshot"
    export(save(store, "first"), None, file)
    with pytest.raises(BadInput, match="of the lab lab, not other"):
        import_(SnapshotStore(tmp_path / "other", "other"), file, media(tmp_path))
    file.write_text("hello")
    with pytest.raises(BadInput, match="no whole export"):
        import_(store, file, media(tmp_path))


def test_a_damaged_snapshot_is_not_exported(store, tmp_path):
    snapshot = save(store, "first")
    (snapshot.folder / "left.ram").write_bytes(b"x")
    with pytest.raises(Damaged):
        export(snapshot, None, tmp_path / "lab.snapshot")
    assert not (tmp_path / "lab.snapshot").exists()


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """What `up` finds of the lab ``two-nodes`` in a cache with these snapshots, given as (lab, base, key)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Lab, "private", True)
    identity = Identity("b1", "k1", HERE, "i1")
    monkeypatch.setattr("testbed.workflows.snapshot.identity_of", lambda *_: identity)
    lab = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))

    def look(*snapshots):
        store = cache_store(lab.id)
        for number, (of, base, key) in enumerate(snapshots):
            with store.saving(f"s{number}", 1) as (_, complete):
                made = complete(manifest(f"s{number}", {}, lab=of, base=base, key=key))
            os.utime(made.folder / "manifest.json", (number, number))
        found = in_cache(lab, None, ResourceSet())
        return found and (found.snapshot.manifest.name, found.exact)

    return look


def test_up_takes_the_state_of_these_very_resources_first(cached):
    assert cached(("two-nodes", "b1", "k1"), ("two-nodes", "b1", "k2")) == ("s0", True)


def test_else_it_takes_the_last_used_one_of_the_same_machines(cached):
    assert cached(("two-nodes", "b1", "k2"), ("two-nodes", "b1", "k3")) == ("s1", False)


def test_of_a_cluster_it_takes_none_that_is_too_old(cached, monkeypatch):
    monkeypatch.setattr(Lab, "has_cluster", True)
    assert cached(("two-nodes", "b1", "k1")) == ("s0", True)
    monkeypatch.setattr("testbed.model.snapshot.CLUSTER_LIFE", timedelta(0))
    assert cached() is None


def test_a_clusters_makings_are_part_of_a_snapshots_identity(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = (home() / "inventories" / "k3s-small.yaml").read_text()

    def base(old="", new=""):
        there = Lab(read_inventory(text.replace(old, new, 1), "k3s-small"), "k3s-small")
        monkeypatch.setattr("testbed.workflows.identity.media_of", lambda _: "")
        return identity_of(there, Machines(there, kvm=False), ResourceSet()).base

    assert base() == base()
    for own in ("cluster: {auditLog: true}", "cluster: {secretsEncryption: false}"):
        assert base("mesh:\n", f"{own}\nmesh:\n") != base()
    assert base("mesh:\n", "mesh:\n  config: {accessLogFile: /dev/stdout}\n") != base(), "Istio's settings"
    settings = "program: echo, settings: {A: b}}\n  - {service: echo, version: v2"
    assert base("program: echo}\n  - {service: echo, version: v2", settings) != base(), "its pods"


def test_of_other_machines_or_another_lab_it_takes_none(cached):
    assert cached(("two-nodes", "b2", "k1"), ("other", "b1", "k1")) is None
