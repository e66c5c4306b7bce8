"""What the node's own shell does for a save, with other paths and shorter waits than on a node."""

import subprocess
import time

import pytest

from testbed.host.directories import testbed_home as home
from testbed.waiting import NotYet, wait_until

GROUPS = (
    "system.slice/system-testbed-sidecar.slice",
    "kubepods.slice",
    "system.slice/k3s.service",
    "system.slice/keepalived.service",
)
SCRIPT = home() / "images" / "shared" / "node" / "freeze.sh"


@pytest.fixture
def node(tmp_path):
    """A folder that has a control group of sidecars and one of pods, and the script for it; (folder, run)."""
    for group in GROUPS:
        (tmp_path / group).mkdir(parents=True)
        (tmp_path / group / "cgroup.freeze").write_text("1\n")
    program = (
        f'open({str(tmp_path / "testbed-thaw.ready")!r}, \\"w\\").write(\\"ready\\"); import time; time.sleep(60)'
    )
    text = SCRIPT.read_text()
    lines = [line for line in text.splitlines() if "/proc/sys/vm/" not in line and not line.startswith("program=")]
    for old, new in (
        ("groups=/sys/fs/cgroup", f"groups={tmp_path}"),
        ("/run/testbed", f"{tmp_path}/testbed"),
        ("sleep 3\n", "\n"),
        ("sleep 120", "sleep 0.5"),
    ):
        assert old in "\n".join(lines), old
        lines = "\n".join(lines).replace(old, new).splitlines()
    made = tmp_path / "freeze.sh"
    made.write_text("\n".join([f'program="{program}"', *lines, ""]))

    def run(*arguments):
        subprocess.run(["sh", str(made), *arguments], check=True, timeout=20)

    yield tmp_path, run
    run("off")


def frozen(folder):
    [value] = {(folder / group / "cgroup.freeze").read_text().strip() for group in GROUPS}
    return value


def test_services_that_nobody_lets_go_on_do_so_by_themselves_and_no_longer_count_as_standing(node):
    folder, run = node
    (folder / "testbed-freeze.standing").write_text("1\n")  # before: they may go on before this test goes on
    run("ready")

    def gone():
        if (folder / "testbed-freeze.standing").exists():
            raise NotYet("there")

    wait_until("they go on", gone, limit=10, interval=0.05)
    assert frozen(folder) == "0"


def test_where_nothing_stands_nothing_is_touched_and_where_it_does_the_watch_ends(node):
    folder, run = node
    run("off", "0")
    assert frozen(folder) == "1"
    run("ready")
    (folder / "testbed-freeze.standing").write_text("1\n")
    run("off", "0")  # long ago: the clock is not set back
    assert frozen(folder) == "0"
    assert not list(folder.glob("testbed-freeze.*"))
    for group in GROUPS:
        (folder / group / "cgroup.freeze").write_text("1\n")
    time.sleep(1)
    assert frozen(folder) == "1"  # the watch is no more


def test_another_process_with_the_noted_number_goes_on(node):
    folder, run = node
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        (folder / "testbed-freeze.pid").write_text(f"{other.pid} 1\n")
        run("off")
        assert other.poll() is None
        other.kill()
    assert not (folder / "testbed-freeze.pid").exists()
