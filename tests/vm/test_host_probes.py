"""doctor on this very host: needs QEMU, and root for the private daemon."""

import os

import pytest

from testbed.host import doctor
from testbed.host.finding import Level
from testbed.host.probes import daemon, kvm, kvm_guest

pytestmark = pytest.mark.vm


def test_the_guest_runs_to_its_end_by_emulation() -> None:
    """The guest is a right one: what doesn't run it is to blame.  (Emulation needs half a second.)"""
    found = kvm.run_guest("tcg", "max", 30)
    assert found.usable, found.detail


def test_a_guest_that_hangs_is_ended_and_its_last_step_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the last instruction before `fail` (the exit), it goes through all steps and then halts."""
    patched = kvm_guest.PROGRAM.replace(bytes.fromhex("b02ae6f4"), bytes.fromhex("90909090"))
    assert patched != kvm_guest.PROGRAM
    monkeypatch.setattr(kvm_guest, "PROGRAM", patched)
    found = kvm.run_guest("tcg", "max", 3)
    assert not found.usable
    assert found.detail == "a test guest came as far as the speed of a processor, then hung until 3 s were over"
    assert found.seconds < 4


def test_a_processor_without_long_mode_is_found_out() -> None:
    found = kvm.run_guest("tcg", "qemu32", 3)
    assert not found.usable
    assert "as far as protected mode" in found.detail


def test_the_verdict_on_this_host_comes_in_time() -> None:
    found = kvm.verdict(5, refresh=True)
    assert found.seconds < 6


@pytest.mark.skipif(os.geteuid() != 0, reason="a private libvirt daemon needs root")
def test_a_host_that_runs_labs_lacks_nothing() -> None:
    """This host runs the tests of real machines, so doctor must find nothing missing."""
    findings = doctor.examine(doctor.Needs())
    assert [f for f in findings if f.level is Level.MISSING] == []
    assert [f.level for f in daemon.probe("auto")] == [Level.OK]
