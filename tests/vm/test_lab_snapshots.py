"""A small lab that is saved, restored and reset, on machines.  These tests run in the order of this file."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, nullcontext
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from commands import COMMAND, cli, forget, left_behind, running, wait_for_step

from testbed.host.directories import LabDirectories, state_root
from testbed.host.directories import testbed_home as home
from testbed.lab.capture import capture
from testbed.lab.snapshots import Restoring
from testbed.workflows.loading import load_lab
from testbed.workflows.snapshot import restore

LAB = "two-nodes"
NAME = "of-the-tests"
SEED = 20261123
HELLO = re.compile(rb"\x16\x03.{3}\x01.{3}\x03\x03(.{32})", re.DOTALL)
"""A TLS record with a ClientHello, and its random bytes (RFC 8446 4.1.2)."""


def shown(_plan):
    return nullcontext(lambda _event: None)


@pytest.fixture(scope="module")
def lab():
    """The lab, built and verified, with an empty cache before; its report."""
    cli("down", "-i", LAB)
    shutil.rmtree(state_root() / "snapshots" / LAB, ignore_errors=True)
    forget(LAB)
    yield json.loads(cli("up", "-i", LAB, "--json"))
    cli("down", "-i", LAB)
    for snapshot in json.loads(cli("snapshot", "list", "-i", LAB, "--json")):
        cli("snapshot", "delete", "-i", LAB, snapshot["name"])
    assert left_behind(LAB) == []


def on(node, *command):
    return cli("ssh", "-i", LAB, node, "--", *command)


def healthy():
    done = subprocess.run(
        [*COMMAND, "status", "-i", LAB, "--json"], capture_output=True, text=True, cwd=home(), check=False
    )
    return json.loads(done.stdout)["healthy"]


def parts():
    """What an interrupted save leaves."""
    return [p for p in (state_root() / "snapshots" / LAB).glob(".*") if p.is_dir()]


def test_up_keeps_what_it_verified(lab):
    assert lab["verdict"] == "PASS"
    assert "keep" in lab["stages"]
    newest = json.loads(cli("cache", "list", "--json"))[0]
    assert newest["lab"] == LAB and newest["verified"] == "echo-split"
    assert "nothing to do" in cli("up", "-i", LAB)


def test_a_save_lets_the_lab_go_on_and_keeps_its_clocks_right(lab):
    saved = json.loads(cli("snapshot", "save", "-i", LAB, NAME, "--json"))
    assert healthy()
    assert saved["pause"] < 10
    assert abs(float(on("left", "date", "+%s.%N")) - time.time()) < 2
    assert "there is a snapshot of that name" in cli("snapshot", "save", "-i", LAB, NAME, code=2)
    cli("snapshot", "show", "-i", LAB, NAME, "--check")


def test_three_restores_in_a_row_under_a_running_client(lab):
    """Identities stay, random numbers don't repeat, nothing grows: as `make soak` says of a hundred."""
    soak = [sys.executable, "benchmarks/soak.py", LAB, "--runs", "3"]
    done = subprocess.run(soak, capture_output=True, text=True, timeout=300, cwd=home(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def here(lab):
    """The lab as this process meets it."""
    with load_lab(LAB).closing() as made:
        yield made


def test_two_restores_share_no_random_number_of_a_proxy(here, monkeypatch):
    """Client hellos carry their sender's random bytes in the clear: those of two restores have none in common."""

    url = next(iter(json.loads(cli("status", "-i", LAB, "--json"))["urls"].values()))

    def hellos():
        found = set()
        with ExitStack() as captures:
            files = []

            def resume(self):
                files.extend(captures.enter_context(capture(here, n.name)) for n in here.inventory.nodes)
                Restoring.resume(self)

            monkeypatch.setattr(
                "testbed.workflows.snapshot.Restoring", type("Seen", (Restoring,), {"resume": resume})
            )
            restore(here, NAME, shown)
            for _ in range(12):  # every other one crosses from the gateway's machine to the other
                urllib.request.urlopen(url, timeout=20).close()
            captures.callback(lambda: found.update(r for f in files for r in HELLO.findall(f.read_bytes())))
            # tcpdump writes each packet as it comes; the callback is the first to run, before the folders go
        return found

    first, second = hellos(), hellos()
    assert first and second
    assert not first & second


def test_a_snapshot_older_than_its_certificates_comes_up_right(here, monkeypatch):
    """Restored 400 days later, all of them have run out: new ones are issued, and every edge answers."""
    later = timedelta(days=400)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + later

    for place in ("testbed.backends.secrets.datetime", "testbed.pki.authority.datetime"):
        monkeypatch.setattr(place, Later)
    monkeypatch.setattr("testbed.lab.snapshots.thawing.now", lambda: time.time() + later.total_seconds())
    restore(here, NAME, shown)  # ends with a request along each edge
    assert abs(float(on("left", "date", "+%s")) - time.time() - later.total_seconds()) < 5
    monkeypatch.undo()
    cli("snapshot", "restore", "-i", LAB, NAME)
    assert healthy()


def test_restores_killed_at_every_step_leave_the_snapshot_and_a_lab_that_the_next_one_makes_right(lab):
    """Each restore checks every byte of the snapshot first, so of what the one before it, killed, has left."""
    chance = random.Random(SEED)
    steps = ["snapshot", "restore:left", "restore:right", "resume", "thaw:left", "thaw:right", "mesh", "edges"]
    for step in chance.sample(steps, len(steps)):
        with running("snapshot", "restore", "-i", LAB, NAME) as restoring:
            wait_for_step(LAB, step, restoring)
            time.sleep(0.5 * chance.random())  # somewhere in it: every moment has to be all right
    cli("snapshot", "restore", "-i", LAB, NAME)
    cli("snapshot", "show", "-i", LAB, NAME, "--check")
    assert healthy()


def test_a_killed_restore_is_made_right_by_up(lab):
    with running("snapshot", "restore", "-i", LAB, NAME) as restore:
        wait_for_step(LAB, "thaw:right", restore)
    cli("up", "-i", LAB)
    assert healthy()


def test_killed_saves_leave_no_half_snapshot_and_the_lab_goes_on(lab):
    chance = random.Random(SEED)
    for number in range(2):
        with running("snapshot", "save", "-i", LAB, f"killed-{number}") as save:
            wait_for_step(LAB, "save", save)
            # at whatever it does then: every moment has to be all right; once as it begins, once well in it
            time.sleep(4 * (number + chance.random()))
        for saved in json.loads(cli("snapshot", "list", "-i", LAB, "--json")):
            cli("snapshot", "show", "-i", LAB, saved["name"], "--check")
        cli("up", "-i", LAB, "--no-verify")  # lets go on what stood still for the save
    assert healthy()
    cli("snapshot", "save", "-i", LAB, "after-the-kill")
    assert parts() == []


def test_a_damaged_snapshot_is_refused_and_the_lab_goes_on(lab):
    folder = Path(json.loads(cli("snapshot", "show", "-i", LAB, NAME, "--json"))["folder"])
    memory = folder / "right.ram"
    content = memory.read_bytes()
    memory.write_bytes(content[: len(content) // 2])
    try:
        assert f"snapshot {NAME}: read it: damaged: right.ram has" in cli(
            "snapshot", "restore", "-i", LAB, NAME, code=1
        )
    finally:
        memory.write_bytes(content)
    assert healthy()


def test_a_restore_onto_a_full_disk_is_refused_and_the_lab_goes_on(lab):
    """A small disk over the lab's folder: its machines have their files open, and whoever comes next sees this one."""
    state = LabDirectories(LAB).state
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(state)], check=True)
    try:
        assert f"restore of {NAME}: make room for it" in cli("snapshot", "restore", "-i", LAB, NAME, code=1)
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert healthy()


def test_a_full_disk_is_said_before_and_nothing_is_written(lab, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], check=True)
    folder = state_root() / "snapshots" / LAB
    moved = folder.with_name(f"{LAB}.moved")
    folder.rename(moved)
    folder.symlink_to(small)
    try:
        assert "MiB free" in cli("snapshot", "save", "-i", LAB, "too-large", code=1)
        assert list(small.iterdir()) == []
    finally:
        folder.unlink()
        moved.rename(folder)
        subprocess.run(["umount", str(small)], check=True)
    assert healthy()


def test_no_snapshot_is_saved_while_a_fault_stands_and_a_restore_ends_it(lab):
    cli("fault", "partition", "-i", LAB, "left", "--peer", "right")
    assert "save it: a fault stands: partition left and right" in cli(
        "snapshot", "save", "-i", LAB, "broken", code=1
    )
    cli("snapshot", "restore", "-i", LAB, NAME)  # asks along edges between the two
    assert "nothing is broken" in cli("fault", "list", "-i", LAB)


def test_a_scaled_workload_stays_so_until_it_is_reset(lab):
    began = json.loads(cli("scale", "-i", LAB, "echo-v1", "2", "--json"))
    assert (began["before"], began["replicas"]) == (1, 2)
    status = json.loads(cli("status", "-i", LAB, "--json"))
    assert status["healthy"] and status["proxies"]["echo-v1-2"]["in_force"]
    assert "echo-v1: 2 instances, 1 in the inventory" in cli("plan", "-i", LAB)
    assert "nothing to do" in cli("up", "-i", LAB)
    assert "echo-v1-2" in on("left", "ls", "/run/netns")
    cli("snapshot", "save", "-i", LAB, "scaled")
    cli("scale", "-i", LAB, "echo-v1", "0")
    assert "echo-v1" not in on("left", "ls", "/run/netns")
    cli("snapshot", "restore", "-i", LAB, "scaled")
    assert "echo-v1: 2 instances" in cli("scale", "-i", LAB)
    assert "nothing to do" in cli("up", "-i", LAB)


def test_a_killed_scale_is_made_whole_by_up(lab):
    """The number was noted before anything was done."""
    with running("scale", "-i", LAB, "echo-v1", "3") as scale:
        wait_for_step(LAB, "mesh", scale)
    cli("up", "-i", LAB, "--no-verify")
    status = json.loads(cli("status", "-i", LAB, "--json"))
    assert status["healthy"] and status["proxies"]["echo-v1-3"]["in_force"]


def test_reset_undoes_what_was_done_since_up(lab, tmp_path):
    """What was applied, written, with the last byte of a node's disk, and scaled."""
    cli("apply", "-i", LAB, "--delete", "playbooks/resources/two-nodes/security.yaml")
    on("left", "sh", "-c", "fallocate -l $(df --output=avail -k / | tail -n 1)K /root/mess; ! echo >/root/more")
    cli("reset", "-i", LAB)
    assert "PeerAuthentication" in cli("applied", "-i", LAB)
    assert not {"mess", "more"} & set(on("left", "ls", "/root").split())
    assert "as the inventory says" in cli("scale", "-i", LAB)
    assert "echo-v1-2" not in on("left", "ls", "/run/netns")
    assert "nothing to do" in cli("up", "-i", LAB)


def test_a_lab_that_is_down_comes_up_from_the_cache(lab):
    cli("down", "-i", LAB)
    up = json.loads(cli("up", "-i", LAB, "--json"))
    assert up["restored"] and up["verdict"] is None
    assert healthy()
    assert "nothing to do" in cli("up", "-i", LAB)
    [verdict] = json.loads(cli("verify", "-i", LAB, "--json", "echo-split"))
    assert verdict["verdict"] == "PASS"


MORE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: more}
spec:
  hosts: [more.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
"""


def test_with_other_resources_up_restores_the_machines_applies_the_difference_and_judges(lab, tmp_path):
    (tmp_path / "more.yaml").write_text(MORE)
    text = (home() / "inventories" / f"{LAB}.yaml").read_text()
    listed = "resources: [playbooks/resources/two-nodes"
    assert listed in text
    inventory = tmp_path / "lab.yaml"
    inventory.write_text(text.replace(listed, f"{listed}, {tmp_path / 'more.yaml'}"))
    cli("down", "-i", LAB)
    up = json.loads(cli("up", "-i", str(inventory), "--json"))
    assert up["restored"] and up["verdict"] == "PASS"
    assert {"thaw:left", "mesh"} <= set(up["steps"])
    assert "more.example" in cli("applied", "-i", LAB)
    assert "nothing to do" in cli("up", "-i", str(inventory))
