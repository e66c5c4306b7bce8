"""The harness takes away what it made, also what a killed run could not take away itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from harness import HERE
from harness_network import RUN_ROOT, remove_leftovers

from testbed.waiting import NotYet, wait_until

MAKE_AND_WAIT = """
import sys
from harness import TWO_SERVICES, MeshHarness
from testbed import log
log.configure(None)
with MeshHarness.from_inventory(TWO_SERVICES) as mesh:
    mesh.apply("")
    print(mesh.tag, mesh.pid("client-v1"), flush=True)
    sys.stdin.read()
"""


def left(tag: str) -> list[str]:
    return [str(p) for folder in ("/run/netns", "/etc/netns", str(RUN_ROOT)) for p in Path(folder).glob(f"{tag}*")]


def runs(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> None:
    """A process that ends leaves its namespace before it is dead."""
    if runs(pid):
        raise NotYet(f"process {pid} still runs")


def start() -> tuple[subprocess.Popen[bytes], str, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_WAIT], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    tag, pid = process.stdout.readline().split()
    return process, tag.decode(), int(pid)


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_is_not():
    killed, old, proxy = start()
    running, current, other = start()
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left(old)
        remove_leftovers()
        assert not left(old)
        wait_until("end of the killed run's proxy", lambda: gone(proxy), limit=10, interval=0.02)
        assert left(current)
        assert runs(other)
    finally:
        running.communicate(timeout=20)
    assert not left(current)
    assert not runs(other)
