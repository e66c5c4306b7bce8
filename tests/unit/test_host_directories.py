"""Where things lie on the host."""

import stat
from pathlib import Path

import pytest

from testbed.errors import HostNotReady
from testbed.host import directories
from testbed.host.daemon import PrivateDaemon
from testbed.host.directories import LabDirectories


def test_xdg_variables_are_followed_and_relative_ones_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert directories.cache_root() == tmp_path / "c" / "testbed"
    assert directories.state_root() == tmp_path / "h" / ".local" / "state" / "testbed"


def test_a_labs_folders_are_closed_to_others_and_go_without_a_trace(tmp_path: Path) -> None:
    lab = LabDirectories("one", tmp_path / "state" / "labs" / "one", tmp_path / "run" / "one")
    lab.create()
    lab.create()
    assert stat.S_IMODE(lab.state.stat().st_mode) == 0o700
    assert lab.volumes.is_dir()
    lab.remove()
    lab.remove()
    assert list(tmp_path.iterdir()) == []


def test_removing_one_lab_leaves_another(tmp_path: Path) -> None:
    one, two = (LabDirectories(n, tmp_path / "labs" / n, tmp_path / "run" / n) for n in ("one", "two"))
    one.create()
    two.create()
    one.remove()
    assert two.state.is_dir()
    assert two.runtime.is_dir()


def test_home_is_the_checkout_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TESTBED_HOME", raising=False)
    assert (directories.testbed_home() / "pyproject.toml").is_file()
    monkeypatch.setenv("TESTBED_HOME", str(tmp_path))
    assert directories.testbed_home() == tmp_path.resolve()


def test_a_private_daemon_without_root_names_the_other_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    daemon = PrivateDaemon("one", LabDirectories("one", tmp_path / "state", tmp_path / "run"))
    with pytest.raises(HostNotReady, match="only root") as refused:
        daemon.start()
    assert "qemu:///system" in refused.value.next_step
    assert list(tmp_path.iterdir()) == []
