"""One lock per lab."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from testbed.errors import LabBusy
from testbed.host.directories import LabDirectories
from testbed.host.lock import hold, holder

HOLDER = """
import sys
from pathlib import Path
from testbed.host.directories import LabDirectories
from testbed.host.lock import hold
with hold(LabDirectories("one", Path(sys.argv[1]), Path(sys.argv[2])), "testbed up"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lab(tmp_path: Path) -> LabDirectories:
    return LabDirectories("one", tmp_path / "state" / "labs" / "one", tmp_path / "run" / "one")


def elsewhere(lab: LabDirectories) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", HOLDER, str(lab.state), str(lab.runtime)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_command_is_told_who_holds_the_lock(lab: LabDirectories) -> None:
    with elsewhere(lab) as other:
        with (
            pytest.raises(
                LabBusy, match=rf"lab one: waited 0.3 s .*: `testbed up` \(pid {other.pid}\) has held it"
            ),
            hold(lab, "testbed down", limit=0.3),
        ):
            raise AssertionError("held twice")
        assert (holder(lab).pid, holder(lab).command) == (other.pid, "testbed up")
        other.stdin.close()


def test_a_second_command_gets_the_lock_once_it_is_free(lab: LabDirectories) -> None:
    with elsewhere(lab) as other:
        threading.Timer(0.3, other.stdin.close).start()
        with hold(lab, "testbed down", limit=10):
            assert holder(lab).pid == os.getpid()


def test_a_killed_holder_holds_nothing(lab: LabDirectories) -> None:
    with elsewhere(lab) as other:
        other.kill()
        other.wait()
        assert holder(lab) is None
        with hold(lab, limit=0.3):
            assert holder(lab).pid == os.getpid(), "what the killed one wrote is gone"


def test_a_lock_on_a_file_that_was_just_deleted_does_not_count(
    lab: LabDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder deletes the file between our open and our flock: a third command would lock another one."""
    real, turns = fcntl.flock, []

    def flock(file: IO[bytes], how: int) -> None:
        if not turns:
            lab.lock.unlink()
        turns.append(how)
        real(file, how)

    monkeypatch.setattr("testbed.host.lock.fcntl.flock", flock)
    with hold(lab, limit=5):
        assert lab.lock.exists()
        assert holder(lab).pid == os.getpid()


def test_nothing_is_left_of_a_lock_and_its_folders(lab: LabDirectories) -> None:
    with hold(lab):
        lab.create()
        lab.remove()
    assert not lab.lock.exists()
    assert not lab.state.parent.parent.exists()


def test_one_at_a_time_while_the_file_comes_and_goes(lab: LabDirectories) -> None:
    """Deleting the file on release never lets two in: 4 threads, 100 turns each."""
    inside, seen = [], []

    def take_turns() -> None:
        for _ in range(25):
            with hold(lab, limit=60):
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 100
