"""What doctor concludes from what it reads; the host itself is asked in tests/vm/test_host_probes.py."""

import json
import os
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from testbed.errors import HostNotReady
from testbed.host import doctor
from testbed.host.finding import Finding, Level
from testbed.host.probes import capacity, disk_access, faults, kvm, kvm_guest, network, packages

GIB = 1024**3
MEMINFO = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\nHugePages_Total: 0\n"
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
virbr7\t004D0A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


@pytest.mark.parametrize(("wanted", "level"), [(3, Level.OK), (6, Level.WARNING), (9, Level.MISSING)])
def test_memory_is_judged_by_what_is_available_and_what_there_is(wanted: int, level: Level) -> None:
    assert capacity._memory(wanted * GIB, MEMINFO).level is level


def test_a_disk_that_is_too_small_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "made" / "yet"
    assert capacity._disk(1, folder).level is Level.OK
    assert capacity._disk(10**18, folder).level is Level.MISSING
    assert not folder.exists()


def test_a_route_of_the_host_that_overlaps_is_named() -> None:
    found = network.clashes([IPv4Network("10.10.77.0/25"), IPv4Network("10.78.0.0/24")], ROUTES)
    assert found.level is Level.MISSING
    assert found.detail == "10.10.77.0/25 is also on virbr7 (10.10.77.0/24)"


def test_the_default_route_and_the_labs_own_bridges_are_no_clash() -> None:
    assert network.clashes([IPv4Network("10.78.0.0/24")], ROUTES).level is Level.OK
    assert network.clashes([IPv4Network("10.10.77.0/24")], ROUTES, ["virbr7"]).level is Level.OK


@pytest.mark.parametrize(
    ("version", "refused"),
    [("5.2.0 (Debian)", True), ("6.0.1", True), ("6.1.0", False), ("10.0.2", False), ("unknown", False)],
)
def test_a_disk_in_use_fails_with_a_qemu_that_can_change_its_layers(version: str, refused: bool) -> None:
    assert bool(faults.no_disk_errors(version)) is refused


def test_no_bridge_filter_no_firewall_trouble(tmp_path: Path) -> None:
    (tmp_path / "calls").write_text("0\n")
    assert network.firewall(tmp_path / "calls").level is Level.OK
    assert network.firewall(tmp_path / "not-loaded").level is Level.OK


@pytest.mark.parametrize(
    ("rules", "level"),
    [
        ("-P FORWARD ACCEPT", Level.OK),
        ("-P FORWARD DROP", Level.MISSING),
        ("-P FORWARD DROP\n-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT", Level.OK),
    ],
)
def test_dockers_forward_policy_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: str, level: Level
) -> None:
    (tmp_path / "calls").write_text("1\n")
    (tmp_path / "iptables").write_text(f"#!/bin/sh\ncat <<'.'\n{rules}\n.\n")
    (tmp_path / "iptables").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert network.firewall(tmp_path / "calls").level is level


def test_a_folder_that_qemus_user_may_not_pass_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert str(closed) in disk_access._permissions(closed / "labs").detail


@pytest.mark.parametrize(
    "release", [{"ID": "debian"}, {"ID": "ubuntu"}, {"ID": "mint", "ID_LIKE": "ubuntu debian"}]
)
def test_debian_and_what_is_like_it_have_package_names(release: dict[str, str]) -> None:
    assert {"qemu-system-x86", "libvirt-dev"} < set(packages.required_packages(release))


def test_another_system_is_told_which_ones_are_known() -> None:
    with pytest.raises(HostNotReady, match="Debian 12"):
        packages.required_packages({"ID": "fedora", "PRETTY_NAME": "Fedora 42"})


def test_every_package_says_why_it_is_needed() -> None:
    assert all(p.witness and " " not in p.witness and len(p.why) > 10 for p in packages.packages())


def test_packages_are_named_before_there_is_python() -> None:
    """scripts/setup takes what stands before the comments, and doctor the same."""
    words = subprocess.run(
        ["sed", "s/#.*//", packages._LIST], capture_output=True, text=True, check=True
    ).stdout.split()
    assert words == [p.name for p in packages.packages()]
    assert "libvirt-dev" in words


def test_fixes_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages in one installation, after an update; what is in order is left alone; sudo for mere users."""
    findings = [
        Finding("a", Level.MISSING, "", "", package="pkg-a"),
        Finding("b", Level.OK, "", "", package="pkg-b", fix=("never",)),
        Finding("c", Level.WARNING, "", "", fix=("usermod", "x")),
        Finding("d", Level.MISSING, "", "", package="pkg-d"),
    ]
    install = ("apt-get", "install", "--yes", "--no-install-recommends", "pkg-a", "pkg-d")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.mends(findings) == [("apt-get", "update"), install, ("usermod", "x")]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor.mends(findings)[1] == ("sudo", *install)


def test_fix_stops_at_the_first_failure_and_keeps_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    commands = [("true",), ("sh", "-c", "echo no such thing; exit 3"), ("true",)]
    findings = [Finding(str(i), Level.MISSING, "", "", fix=c) for i, c in enumerate(commands)]
    assert [(m.status, m.last_words) for m in doctor.fix(findings)] == [(0, ""), (3, "no such thing")]


def test_without_root_and_sudo_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostNotReady, match="there is no sudo"):
        doctor.fix([Finding("a", Level.MISSING, "", "", fix=("true",))])


def test_only_what_is_missing_stops_a_lab() -> None:
    doctor.require([Finding("a", Level.WARNING, "slow", "")])
    with pytest.raises(HostNotReady, match=r"b: check the host: gone \(and 1 more\)"):
        doctor.require([Finding(n, Level.MISSING, "gone", "") for n in "bc"])


def test_the_kvm_verdict_is_kept_for_one_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "_obvious", lambda: "")
    runs = []
    monkeypatch.setattr(kvm, "run_guest", lambda *a: runs.append(a) or kvm.KvmVerdict(True, "ran", 0.5))
    assert kvm.verdict() == kvm.verdict()
    assert len(runs) == 1
    memory = tmp_path / "testbed" / "kvm.json"
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"boot": "an earlier one"}))
    kvm.verdict()
    assert len(runs) == 2
    memory.write_text("{")
    kvm.verdict()
    assert len(runs) == 3


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("ld")), reason="no assembler on this host")
def test_the_kvm_guest_is_what_its_source_says(tmp_path: Path) -> None:
    """How the bytes in kvm_guest.py are made: assemble, link at 1 MiB as a flat file, base64."""
    source = Path(kvm_guest.__file__).with_suffix(".S")
    subprocess.run(["gcc", "-m64", "-c", "-o", tmp_path / "guest.o", source], check=True)
    link = ["ld", "-m", "elf_x86_64", "-Ttext", "0x100000", "--oformat", "binary", "-o"]
    subprocess.run([*link, tmp_path / "guest", tmp_path / "guest.o"], check=True)
    assert (tmp_path / "guest").read_bytes() == kvm_guest.PROGRAM
