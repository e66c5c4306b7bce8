"""Nodes start from a template's memory as themselves, or are booted and say why."""

import errno
import shutil
import threading
import time
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from testbed.errors import LabError
from testbed.host.directories import LabDirectories, existing_labs
from testbed.host.directories import testbed_home as home
from testbed.host.lock import hold
from testbed.hypervisor.cloning import definition_of, read_front, write_front
from testbed.hypervisor.xml import METADATA, Cpu, Machine, Nic, domain_uuid, domain_xml
from testbed.lab.lab import Lab
from testbed.lab.snapshots import Cloning
from testbed.lab.snapshots.store import Damaged, InUse, Snapshot, checksums, evict
from testbed.lab.snapshots.templates import MEMORY, NODE, template_lab, template_store
from testbed.model.reading import read_inventory
from testbed.model.snapshot import Emulated, Manifest
from testbed.plan import ObservedLab, ObservedMachine, WantedLab, WantedMachine, plan_up
from testbed.waiting import Cancelled
from testbed.workflows.cloning import clear_interrupted, make_template, templates_of
from testbed.workflows.identity import Identity

HERE = Emulated(accelerator="tcg", qemu="7", machine="pc", cpu="qemu64")
COOKIE = b"<cookie/>\0"
XML = b"<domain/>\0"


def front(*, magic=b"LibvirtQemudSave", version=2, xml=XML, cookie=COOKIE, padding=0):
    """As libvirt 9 writes it: 16 bytes, five little-endian numbers, 14 unused ones; definition, cookie, padding."""
    numbers = (version, len(xml) + len(cookie) + padding, 0, 0, len(xml) if cookie else 0)
    header = magic + b"".join(n.to_bytes(4, "little") for n in numbers) + bytes(56)
    return header + xml + cookie + bytes(padding)


@pytest.mark.parametrize("cookie", [COOKIE, b""], ids=["cookie", "none"])
@pytest.mark.parametrize("padding", [0, 700])
def test_a_save_file_gets_another_definition_and_keeps_the_rest(cookie, padding):
    data = front(cookie=cookie, padding=padding)
    found = read_front(data + b"MEMORY", "x")
    assert (found.definition, found.length) == ("<domain/>", len(data))
    longer = "<domain><name>much-longer-than-before</name></domain>"
    written = write_front(found, longer)
    again = read_front(written + b"MEMORY", "x")
    assert (again.definition, again.cookie, again.length) == (longer, cookie.rstrip(b"\0"), len(written))


@pytest.mark.parametrize(
    "data",
    [b"", front()[:91], front()[:-1], front(magic=b"LibvirtQemudPart"), front(version=3)],
    ids=["empty", "half a header", "cut", "unfinished", "version"],
)
def test_what_is_no_save_file_is_refused(data):
    with pytest.raises(LabError, match="save file"):
        read_front(data, "x")


def machine(node, **changes):
    made = Machine(
        lab="lab",
        node=node,
        vcpus=1,
        memory=2**29,
        kvm=False,
        cpu=Cpu("qemu64"),
        boot=None,
        disk=Path(f"/volumes/{node}.qcow2"),
        seed=Path(f"/volumes/{node}.seed.iso"),
        shared=Path("/cache/shared/disk.raw"),
        console=Path(f"/consoles/{node}.log"),
        nics=(),
        spec="s",
    )
    return replace(made, **changes)


def test_a_clones_definition_is_its_own_in_name_and_files_and_the_templates_in_all_else():
    cards = (Nic("template.1-mesh", "52:56:0a:00:00:09", "tap9"),)
    template = domain_xml(machine(NODE, lab="template.1", nics=cards))
    nic = Nic("lab-mesh", "52:56:0a:00:00:01", "tap0")
    cloned = ET.fromstring(definition_of(machine("left", nics=(nic,)), "half", template))
    assert cloned.findtext("name") == "lab-left"
    assert cloned.findtext("uuid") == domain_uuid("lab", "left")
    mark = cloned.find(f"metadata/{{{METADATA}}}node")
    assert mark.attrib == {"lab": "lab", "node": "left", "spec": "half"}
    assert [s.get("file") for s in cloned.iterfind("devices/disk/source")] == [
        "/volumes/left.qcow2",
        "/volumes/left.seed.iso",
        "/cache/shared/disk.raw",
    ]
    assert cloned.find("devices/serial/source").get("path") == "/consoles/left.log"
    card = cloned.find("devices/interface")
    found = (card.find("source").attrib, card.find("mac").get("address"), card.find("target").get("dev"))
    assert found == ({"network": "lab-mesh"}, "52:56:0a:00:00:01", "tap0")
    assert NODE not in ET.tostring(cloned, encoding="unicode")


WANTED = WantedLab(
    id="lab",
    private_hypervisor=True,
    networks={"management": "m1"},
    machines={"left": WantedMachine("l1", "w1"), "right": WantedMachine("r1", "w2")},
    forwards={},
)


def names(plan):
    return [s.name for s in plan]


def test_a_new_node_with_a_template_is_cloned_and_one_without_is_booted():
    plan = plan_up(WANTED, ObservedLab(image=True, shared=True, templates=frozenset({"right"})))
    machines = [n for n in names(plan) if n.split(":")[0] in ("create", "start", "clone", "boot")]
    assert machines == ["create:left", "start:left", "boot:left", "clone:right", "boot:right"]
    steps = {s.name: s for s in plan}
    assert steps["clone:right"].needs == {"hypervisor", "network:management"}
    assert steps["workloads"].needs == {"boot:left", "boot:right"}


def test_a_machine_that_is_there_stays_and_a_snapshot_comes_before_templates():
    both = frozenset({"left", "right"})
    there = {n: ObservedMachine(f"{n[0]}1", True, True, m.workloads) for n, m in WANTED.machines.items()}
    there["right"] = ObservedMachine("other", True, True, "w2")
    added = plan_up(WANTED, ObservedLab(image=True, shared=True, machines=there, templates=both))
    assert "clone:right" in names(added) and "clone:left" not in names(added)
    off = {n: ObservedMachine(f"{n[0]}1", False) for n in WANTED.machines}
    assert not any("clone" in n for n in names(plan_up(WANTED, ObservedLab(machines=off, templates=both))))
    restored = plan_up(WANTED, ObservedLab(snapshot=True, templates=both))
    assert not any("clone" in n for n in names(restored))


def test_a_missing_template_is_made_first_and_its_nodes_start_from_it():
    kinds = {"left": "left", "right": "left"}
    steps = {s.name: s for s in plan_up(WANTED, ObservedLab(templates_to_make=kinds))}
    assert not [n for n in steps if n.startswith(("create:", "start:"))]
    assert steps["template:left"].needs == {"hypervisor", "image", "shared-disk"}
    assert {"template:left", "network:management"} <= steps["clone:right"].needs
    each = {s.name: s for s in plan_up(WANTED, ObservedLab(templates_to_make={"left": "left", "right": "right"}))}
    assert "template:left" in each["template:right"].needs  # one after another


def test_no_template_is_made_for_machines_that_stay():
    there = {n: ObservedMachine(f"{n[0]}1", True, True, m.workloads) for n, m in WANTED.machines.items()}
    plan = plan_up(WANTED, ObservedLab(machines=there, templates_to_make={"left": "left"}))
    assert not [n for n in names(plan) if n.startswith("template:")]


@pytest.mark.parametrize(("new", "made"), [(["left", "right"], {"left": "left", "right": "left"}), (["left"], {})])
def test_a_template_is_made_where_several_nodes_start_from_it(monkeypatch, tmp_path, new, made):
    """One machine boots in the time that a template and a clone of it take."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Lab, "private", True)
    lab = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))
    found = templates_of(lab, new)
    assert (found.fitting, found.missing, found.why_not) == ({}, made, "")


class FakeHypervisor:
    """Knows no machine, so there is no power to cut."""

    def machines(self):
        return {}


class FakeMachines:
    """Notes what is asked of it."""

    def __init__(self, folder):
        self.lab = self
        self.directories = self
        self.volumes = folder
        self.done = []

    def hypervisor(self):
        return FakeHypervisor()

    def __getattr__(self, name):
        return lambda node, *_: self.done.append(f"{name} {node}")


def manifest(name, folder):
    return Manifest(
        lab="template.1",
        name=name,
        saved=datetime.now(UTC),
        base="b",
        key="b",
        emulated=HERE,
        media="i",
        inventory="{}",
        resources="",
        revision="",
        nodes=(NODE,),
        disks={NODE: ()},
        pause=0.0,
        files=checksums(folder, [p.name for p in folder.iterdir()]),
    )


@pytest.fixture
def template(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with template_store().saving("template.1-b", 1) as (folder, complete):
        (folder / MEMORY).write_bytes(front())
        return complete(manifest("template.1-b", folder))


def test_from_a_damaged_template_no_node_starts_it_goes_and_they_are_booted(template, tmp_path):
    (template.folder / MEMORY).write_bytes(front()[:-3])
    machines = FakeMachines(tmp_path)
    cloning = Cloning(machines, {"left": template, "right": template})
    for node in ("left", "right"):
        cloning.start(node)
        cloning.wait(node, threading.Event())
    assert machines.done == [f"{what} {n}" for n in ("left", "right") for what in ("create", "start", "wait")]
    assert set(cloning.booted) == {"left", "right"}
    assert "damaged" in cloning.booted["right"]
    assert template_store().all() == []


def test_a_clone_that_does_not_answer_is_booted(template, tmp_path, monkeypatch):
    machines = FakeMachines(tmp_path)

    def late(node, cancel, limit=0):
        machines.done.append(f"wait {node} {limit:g}")
        if limit:
            raise LabError(node, "boot", "no answer")

    machines.wait = late
    cloning = Cloning(machines, {"left": template, "right": template})
    monkeypatch.setattr(cloning, "_lay", lambda node: None)
    for what in ("clone", "resume"):
        monkeypatch.setattr(f"testbed.lab.snapshots.templates.{what}", lambda *_: None)
    cloning.start("left")
    cloning.start("right")
    cloning.wait("left", threading.Event())
    assert machines.done == ["wait left 90", "create left", "start left", "wait left 0"]
    assert "no answer" in cloning.booted["left"]
    assert template_store().all() != []  # right may answer yet
    cloning.wait("right", threading.Event())
    assert template_store().all() == []  # or the next `up` would wait as long again


def test_a_template_that_libvirt_does_not_start_goes_and_its_nodes_are_booted(template, tmp_path, monkeypatch):
    machines = FakeMachines(tmp_path)

    def refuse(*_):
        raise LabError("left", "start it from a template", "no")

    cloning = Cloning(machines, {"left": template})
    monkeypatch.setattr(cloning, "_lay", lambda node: None)
    monkeypatch.setattr("testbed.lab.snapshots.templates.clone", refuse)
    cloning.start("left")
    cloning.wait("left", threading.Event())
    assert machines.done == ["create left", "start left", "wait left"]
    assert template_store().all() == []


def test_a_full_disk_is_not_the_templates_fault(template, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    cloning = Cloning(FakeMachines(tmp_path), {"left": template})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0))
    cloning.machines.definition = lambda node: machine(node, disk=tmp_path / "left.qcow2", console=tmp_path / "c")
    cloning.start("left")
    assert "make room" in cloning.booted["left"]
    assert template_store().all() != []


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """Folders of the test's own, and a lab that can have templates."""
    for folder in ("CACHE_HOME", "STATE_HOME", "RUNTIME_DIR"):
        monkeypatch.setenv(f"XDG_{folder}", str(tmp_path))
    monkeypatch.setattr(Lab, "private", True)
    monkeypatch.setattr("testbed.workflows.cloning._identity", lambda *_: Identity("b", "b", HERE, "i"))
    return Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))


def test_nodes_whose_template_can_not_be_made_are_booted_and_say_why(apart, tmp_path, monkeypatch):
    lab = apart

    def fail(*_):
        raise LabError("template", "boot", "no answer")

    monkeypatch.setattr("testbed.workflows.cloning.boot_template", fail)
    monkeypatch.setattr("testbed.host.daemon.PrivateDaemon.start", lambda self: None)
    machines = FakeMachines(tmp_path)
    machines.lab = lab
    cloning = Cloning(machines, {})
    found = templates_of(lab, ["left", "right"])
    make_template(cloning, found, "left", threading.Event())
    monkeypatch.setattr(lab, "hypervisor", FakeHypervisor)
    for node in ("left", "right"):
        cloning.start(node)
        cloning.wait(node, threading.Event())
    assert machines.done == [f"{what} {n}" for n in ("left", "right") for what in ("create", "start", "wait")]
    assert set(cloning.booted.values()) == {"template: boot: no answer"}
    assert not [d for d in existing_labs() if d.lab_id.startswith("template.")]


def test_a_template_can_not_be_made_on_a_full_disk_and_its_nodes_are_booted(apart, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("testbed.workflows.cloning.boot_template", full)
    monkeypatch.setattr("testbed.host.daemon.PrivateDaemon.start", lambda self: None)
    machines = FakeMachines(tmp_path)
    cloning = Cloning(machines, {})
    cloning.lab = apart
    make_template(cloning, templates_of(apart, ["left", "right"]), "left", threading.Event())
    cloning.lab = machines
    cloning.start("left")
    assert "No space left" in cloning.booted["left"]


def test_a_template_that_is_of_no_use_here_is_told_of_only_where_none_is_made_instead(apart):
    [home_of_left] = {template_lab(apart, node).id for node in apart.inventory.nodes}
    with template_store().saving(f"{home_of_left}-old", 1) as (folder, complete):
        old = manifest(f"{home_of_left}-old", folder)
        complete(old.model_copy(update={"lab": home_of_left, "base": "another"}))
    several, one = templates_of(apart, ["left", "right"]), templates_of(apart, ["left"])
    assert (several.missing, several.why_not) == ({"left": "left", "right": "left"}, "")
    assert (one.missing, f"template {home_of_left}-old: " in one.why_not) == ({}, True)


def test_two_kinds_of_templates_are_saved_at_once(apart):
    with template_store("template.1").saving("one", 1) as (one, _):
        with template_store("template.2").saving("two", 1) as (two, _):
            assert one.is_dir() and two.is_dir()
        assert one.is_dir()


def test_another_labs_template_under_way_is_left_alone(apart):
    there = LabDirectories("template.1")
    there.create()
    with hold(there):
        clear_interrupted()
        assert there.state.is_dir()
    clear_interrupted()
    assert not there.state.exists()


def test_one_that_another_lab_takes_in_hand_meanwhile_is_not_waited_for(apart, monkeypatch):
    there = LabDirectories("template.1")
    there.create()
    monkeypatch.setattr("testbed.workflows.cloning.holder", lambda _: None)  # a moment ago
    with hold(there):
        began = time.monotonic()
        clear_interrupted()
        assert time.monotonic() - began < 5
        assert there.state.is_dir()


def test_a_wait_for_another_lab_that_makes_the_same_template_is_called_off(apart, tmp_path):
    cancel = threading.Event()
    cancel.set()
    [there] = {template_lab(apart, node).id for node in apart.inventory.nodes}
    cloning = Cloning(FakeMachines(tmp_path), {})
    cloning.lab = apart
    with hold(LabDirectories(there)), pytest.raises(Cancelled):
        make_template(cloning, templates_of(apart, ["left", "right"]), "left", cancel)


def test_what_a_lab_is_started_from_is_not_deleted_meanwhile(template):
    with template.used_now():
        assert evict([template_store()], 0) == []
        with pytest.raises(InUse, match="a lab is being started from it"):
            template_store().delete(template)
    assert evict([template_store()], 0) != []
    with pytest.raises(Damaged, match="deleted meanwhile"), template.used_now():
        pass
    template_store().delete(template)  # gone already is no error


def test_prune_takes_labs_and_templates_by_when_they_were_used(template):
    assert evict([template_store()], 2**30) == []
    assert [s.manifest.name for s in evict([template_store()], 0)] == ["template.1-b"]
    assert isinstance(template, Snapshot)
