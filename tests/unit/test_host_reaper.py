"""What is left by a lab's daemons as it starts has somebody above it who takes note when it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from testbed.host import reaper
from testbed.host.daemon import _sort
from testbed.host.processes import Process
from testbed.waiting import NotYet, wait_until


def start(script, *arguments):
    environment = {"PATH": os.environ["PATH"], reaper.COMMAND: json.dumps(["sh", "-c", script, "sh", *arguments])}
    return subprocess.run([sys.executable, "-ISE", reaper.__file__], env=environment, check=False).returncode


def fields(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ended(pid):
    if Path(f"/proc/{pid}").exists() and fields(pid)[0] != "Z":
        raise NotYet("still there")


def test_it_ends_with_the_commands_status_and_stays_above_what_is_left(tmp_path):
    """That is gone from the kernel's list the moment it ends, and what stayed for it goes, too."""
    assert start("sleep 60 & echo $! >$1; exit 7", str(tmp_path / "pid")) == 7
    left = int((tmp_path / "pid").read_text())
    above = int(fields(left)[1])
    assert reaper.__file__ in Path(f"/proc/{above}/cmdline").read_text().split("\0")
    os.kill(above, signal.SIGTERM)  # everything of a lab is asked to end; this one is the last
    os.kill(left, signal.SIGKILL)

    def gone():
        if Path(f"/proc/{left}").exists():
            raise NotYet("listed")

    wait_until("it is no longer listed", gone, limit=0.5, interval=0.01)
    wait_until("what stayed has gone", lambda: ended(above), limit=2, interval=0.01)


def test_nobody_stays_where_nothing_is_left(tmp_path):
    assert start("echo $PPID >$1", str(tmp_path / "pid")) == 0
    wait_until("it has gone", lambda: ended((tmp_path / "pid").read_text().strip()), limit=2, interval=0.01)


def test_a_command_that_is_not_there_is_no_success():
    environment = {"PATH": os.environ["PATH"], reaper.COMMAND: json.dumps(["no-such-program"])}
    argv = [sys.executable, "-ISE", reaper.__file__]
    assert subprocess.run(argv, env=environment, stderr=subprocess.DEVNULL, check=False).returncode != 0


def test_what_another_installation_has_started_is_found_under_it():
    """A lab goes on when Testbed is installed anew elsewhere."""
    above = Process(2, 1, "python3", ("/elsewhere/python3", "-ISE", "/elsewhere/reaper.py", "testbed-reaper"), True)
    daemons = [Process(3, 2, "virtlogd", ("virtlogd",), True), Process(4, 2, "libvirtd", ("libvirtd",), True)]
    found = _sort([above, *daemons])
    assert (found.virtlogd, found.libvirtd) == tuple(daemons)
    assert (found.reapers, found.others) == ((above,), ())
