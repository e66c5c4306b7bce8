"""What `benchmarks/lab_speed.py` tells its peers to do, and what it makes of their figures."""

import json
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager

import pytest

from testbed.errors import LabError
from testbed.host.directories import testbed_home as home
from testbed.images import NodeImage

sys.path.append(str(home() / "benchmarks"))
from lab_speed import columns, line, summary, with_peers
from peers import Host, base, kcli, measure_peers, ratio, vagrant, virt_install
from peers import host as peers_host
from peers.installing import packages


def test_an_emulated_machine_is_asked_for_only_where_kvm_can_not_be_used(tmp_path):
    disk = tmp_path / "base.qcow2"
    real = virt_install.command("peer-0", disk, emulated=False)
    assert real[:4] == ["virt-install", "--import", "--name", "peer-0"]
    assert "backing_store=/var/lib/libvirt/images/base.qcow2,backing_format=qcow2,size=10" in real
    assert not {"qemu", "--memory", "--vcpus", "--network"} & set(real)
    assert "--virt-type qemu" in " ".join(virt_install.command("peer-0", disk, emulated=True))
    assert kcli.create(disk, 6, emulated=False) == ["create", "vm", "--image", "base.qcow2", "--count", "6", "peer"]
    assert "virttype=qemu" in kcli.create(disk, 6, emulated=True)
    assert "driver" not in vagrant.vagrantfile(6, tmp_path / "key", emulated=False)
    assert 'libvirt.driver = "qemu"' in vagrant.vagrantfile(6, tmp_path / "key", emulated=True)


def test_a_vagrantfile_has_every_machine_and_shares_no_folder(tmp_path):
    text = vagrant.vagrantfile(3, tmp_path / "key", emulated=True)
    assert "(0...3).each" in text
    assert 'config.vm.define "peer-#{number}"' in text
    assert f'private_key_path = "{tmp_path}/key"' in text
    assert "disabled: true" in text
    if shutil.which("ruby"):
        subprocess.run(["ruby", "-c"], input=text, text=True, check=True, stdout=subprocess.DEVNULL)
    assert json.loads(vagrant.box_files()["metadata.json"])["format"] == "qcow2"


def test_addresses_are_read_from_what_libvirts_dhcp_server_has_given_out(tmp_path):
    file = tmp_path / "virbr0.status"
    assert peers_host.leased(file) == []
    file.write_text('[{"ip-address": "192.168.122.7", "mac-address": "52:54:00:00:00:01"}, {"mac-address": "x"}]')
    assert peers_host.leased(file) == ["192.168.122.7"]
    file.write_text('[{"ip-addr')  # is being written
    assert peers_host.leased(file) == []


def test_a_boot_sector_finds_its_loader_behind_the_file_system():
    sector, loader = bytearray(512), bytearray(2048)
    struct.pack_into("<Q", sector, 0x5C, 1)
    struct.pack_into("<QHH", loader, 500, 2, 3, 0x820)
    found, rest = base.chain(bytes(sector), bytes(loader), 6291456)
    assert struct.unpack_from("<Q", found, 0x5C) == (6291456,)
    assert struct.unpack_from("<QHH", rest, 500) == (6291457, 3, 0x820)
    with pytest.raises(ValueError, match="not GRUB's"):
        base.chain(bytes(512), bytes(loader), 1)


@pytest.mark.parametrize(
    ("event", "does"),
    [
        ("deconfig", ["link set eth0 up"]),
        (
            "bound",
            ["address replace 192.168.122.7/24 dev eth0", "route replace default via 192.168.122.1 dev eth0"],
        ),
        ("nak", []),
    ],
)
def test_a_lease_becomes_an_address_and_a_route(tmp_path, event, does):
    ip = tmp_path / "ip"
    ip.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/did\n')
    ip.chmod(0o755)
    lease = {"ip": "192.168.122.7", "mask": "24", "router": "192.168.122.1 192.168.122.2", "interface": "eth0"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **lease}
    subprocess.run(["sh", "-euc", base.LEASE, "lease", event], env=environment, check=True)
    did = tmp_path / "did"
    assert (did.read_text().splitlines() if did.exists() else []) == does


@pytest.mark.skipif(not (base.GRUB / "boot.img").exists(), reason="needs grub-pc-bin")
def test_a_disk_becomes_bootable_and_its_file_system_stays_whole(tmp_path):
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk)], check=True)
    (tmp_path / "content").write_bytes(b"x" * 5000)
    base.put(disk, tmp_path / "content", "/file", 0o600)
    base.put(disk, tmp_path / "content", "/file", 0o755)  # in place of the first
    base.link(disk, "/link", "file")
    base.make_bootable(disk, base.core(tmp_path))
    assert disk.read_bytes()[510:512] == b"\x55\xaa"
    assert subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, check=False).returncode == 0
    said = subprocess.run(["debugfs", "-R", "stat /file", str(disk)], capture_output=True, check=True).stdout
    assert b"Mode:  0755" in said
    assert b"Type: regular" in said


class Program:
    name = "other"

    def __init__(self, fails="", missing=""):
        self.fails, self.why, self.did = fails, missing, []

    def missing(self):
        return self.why

    def _do(self, what):
        self.did.append(what)
        if what == self.fails:
            raise LabError("other", what, "it broke", "mend it")

    def prepare(self, host, disk, count):
        self._do("prepare")

    def start(self, host, disk, count):
        self._do("start")
        host.there = [f"10.0.0.{n}" for n in range(count)]

    def remove(self, host, count):
        self._do("remove")


class NoHost(Host):
    def __init__(self):
        self.there, self.cleared, self.ran = [], 0, 0

    @contextmanager
    def running(self, image):
        self.ran += 1
        yield None

    def addresses(self):
        return set(self.there)

    def answering(self, address):
        return True

    def clear(self):
        self.cleared += 1


@pytest.fixture
def image(tmp_path):
    return NodeImage("key", tmp_path / "disk", "raw", 1)


def test_a_peer_is_timed_until_all_its_machines_answer_and_then_removed(image):
    peer = Program()
    measured = measure_peers(NoHost(), image, 3, [peer])
    assert peer.did == ["prepare", "start", "remove"]
    assert 0 < measured.seconds["other"] < 10
    assert not measured.skipped


@pytest.mark.parametrize(("step", "did"), [("prepare", 1), ("start", 3), ("remove", 3)])
def test_a_peer_that_fails_is_left_out_and_nothing_of_it_stays(image, step, did):
    host, peer = NoHost(), Program(fails=step)
    measured = measure_peers(host, image, 2, [peer])
    assert (len(peer.did), host.cleared) == (did, 1)
    assert not measured.seconds
    assert "it broke" in measured.skipped["other"]


def test_nothing_is_started_for_peers_that_are_not_installed(image):
    host = NoHost()
    measured = measure_peers(host, image, 2, [Program(missing="there is none")])
    assert (host.ran, measured.skipped) == (0, {"other": "there is none"})


def test_the_quickest_peer_is_the_measure():
    assert ratio({"a": 60.0, "b": 48.0}, 8.0) == 6.0
    assert ratio({}, 8.0) is None
    ours = {"clones answering": 10.0, "first answering": 30.0}
    run = with_peers(ours, {"a": 90.0, "b": 75.0})
    assert (run["x clones"], run["x first"]) == (7.5, 2.5)
    assert with_peers(ours, {}) == ours


def test_runs_that_measured_different_things_stand_in_one_table():
    runs = [{"a": 1.0}, {"a": 3.0, "x clones": 5.0}, {"a": 2.0, "x clones": 5.5, "x first": 2.5}]
    assert columns(runs) == ["a", "x clones", "x first"]
    assert line("1", columns(runs), runs[0]).split() == ["1", "1.0"]
    middle, least, most, clones, first = summary(runs)
    assert [text.split()[1:] for text in (middle, least, most)] == [
        ["2.0", "5.2", "2.5"], ["1.0", "5.0", "2.5"], ["3.0", "5.5", "2.5"],
    ]  # fmt: skip
    assert clones.endswith("the target of 6 is missed")
    assert first.endswith("the target of 2 is held")


def test_packages_are_listed_one_a_line():
    assert packages("# all\nvirtinst # a program: why\n\nvagrant\n") == ["virtinst", "vagrant"]
    assert "vagrant-libvirt" in packages((home() / "benchmarks" / "packages.txt").read_text())
