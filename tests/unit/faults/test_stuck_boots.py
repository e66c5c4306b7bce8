"""A machine that says on its console that it does not go on is given another boot, once."""

from types import SimpleNamespace

import pytest

from testbed.faults import stuck
from testbed.faults.stuck import Revival, stands

HUNG = "[  242.831682] INFO: task mount:93 blocked for more than 120 seconds.\n"
BEFORE = "[   96.123894] ---[ end Kernel panic - not syncing: NMI: Not continuing ]---\n"


@pytest.mark.parametrize(
    ("console", "line"),
    [
        (f"[    0.5] booting\n{HUNG}[  243] Not tainted\n", HUNG.strip()),
        ("[ 9.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n", "[ 9.1] Kernel panic - not syncing: VFS: Unable to mount root fs"),
        ("[    0.5] booting\n[    3.1] systemd[1]: blocked for a while\n", ""),
    ],
)  # fmt: skip
def test_a_kernel_says_itself_that_it_stands(console, line):
    assert stands(console) == line


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A lab whose machine writes to ``console``, and what was done to the machine."""
    done = []
    breaker = SimpleNamespace(cut_power=lambda node: done.append(("cut", node)))
    monkeypatch.setattr(stuck, "DomainBreaker", lambda _: breaker)
    lab = SimpleNamespace(
        directories=SimpleNamespace(consoles=tmp_path),
        connection=lambda _: SimpleNamespace(close=lambda: None),
        hypervisor=lambda: SimpleNamespace(start=lambda node: done.append(("start", node))),
    )
    return lab, tmp_path / "app-3.log", done


def test_it_is_given_another_boot_once(played):
    lab, console, done = played
    console.write_text(BEFORE)
    revival = Revival(lab, "app-3")
    revival.look()
    assert done == [] and revival.words == ""  # that panic was before
    console.write_text(BEFORE + HUNG)
    revival.look()
    revival.look()
    assert done == [("cut", "app-3"), ("start", "app-3")]
    assert "begun anew" in revival.words and "mount:93" in revival.words
