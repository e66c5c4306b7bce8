"""What a machine is made from has one fingerprint, before it is made and after."""

from pathlib import Path

import pytest

from testbed.host.directories import testbed_home as home
from testbed.hypervisor.machines import Hypervisor
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.model.reading import read_inventory


@pytest.fixture
def lab(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))
    made.directories.create()
    return made


def test_the_spec_that_is_defined_is_the_spec_that_is_wanted_afterwards(lab, monkeypatch):
    defined = {}
    monkeypatch.setattr(Lab, "hypervisor", lambda _: Recorder(defined))
    monkeypatch.setattr("testbed.lab.machines.create_overlay", lambda path, *_: path.touch())
    before = Machines(lab, kvm=False)
    assert not lab.known_keys("left")
    for node in ("left", "right"):
        before.create(node)
    assert defined == Machines(lab, kvm=False).specs()


class Recorder(Hypervisor):
    def __init__(self, defined):
        self.defined = defined

    def define(self, machine):
        self.defined[machine.node] = machine.spec


def test_planning_makes_no_keys(lab):
    Machines(lab, kvm=False).specs()
    assert list(Path(lab.directories.pki).iterdir()) == []


def test_keys_are_made_once_and_kept_to_their_owner(lab):
    assert lab.client_key == lab.client_key
    assert lab.client_key_file.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(lab.client_key)


def test_the_spec_follows_what_the_machine_is_made_from(lab):
    plain, accelerated = Machines(lab, kvm=False).specs(), Machines(lab, kvm=True).specs()
    assert plain["left"] != plain["right"]
    assert plain["left"] != accelerated["left"]
