"""Labs whose machines start from a template, on machines.  These tests run in the order of this file."""

import json
import shutil
import subprocess
import time

import pytest
from commands import COMMAND, cli, forget, left_behind, running, wait_for_step

from testbed.host.directories import existing_labs, state_root
from testbed.host.directories import testbed_home as home
from testbed.lab.snapshots import template_store
from testbed.waiting import NotYet, wait_until
from testbed.workflows.loading import load_lab

NAMES = ("two-nodes", "two-nodes-b")
"""The id of one student's lab and of another's."""
NODES = ("left", "right")
LOOK = (
    "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; cat /sys/class/net/*/address; "
    "head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'; echo"
)


@pytest.fixture(scope="module")
def inventories(tmp_path_factory):
    """The same lab under two ids, not up, and a cache that has neither them nor a template."""
    text = (home() / "inventories" / f"{NAMES[0]}.yaml").read_text()
    folder = tmp_path_factory.mktemp("inventories")
    made = {}
    for name in NAMES:
        assert f"id: {NAMES[0]}\n" in text
        made[name] = folder / f"{name}.yaml"
        made[name].write_text(text.replace(f"id: {NAMES[0]}\n", f"id: {name}\n"))
        cli("down", "-i", str(made[name]))
        forget(name)
    for template in template_store().all():
        template_store().delete(template)
    yield made
    for name, file in made.items():
        cli("down", "-i", str(file))
        shutil.rmtree(state_root() / "snapshots" / name, ignore_errors=True)
        forget(name)
        assert left_behind(name) == []


def up(inventory):
    return json.loads(cli("up", "-i", str(inventory), "--json"))


def healthy(inventory):
    return json.loads(cli("status", "-i", str(inventory), "--json"))["healthy"]


def identities(inventory):
    """What each node says of itself: words that no other node may say."""
    said = {n: cli("ssh", "-i", str(inventory), n, "--", "sh", "-c", LOOK) for n in NODES}
    return {n: {w for w in text.split() if len(w) > 2} - {"00:00:00:00:00:00"} for n, text in said.items()}


def unfinished():
    """Labs in which templates are made that nobody makes any more."""
    return [d.lab_id for d in existing_labs() if d.lab_id.startswith("template.")]


def made():
    if not unfinished():
        raise NotYet("none")


def test_an_up_that_is_killed_as_it_makes_or_clones_a_template_is_made_whole_by_the_next(inventories):
    inventory = inventories[NAMES[0]]
    for step in ("template:left", "clone:right", "boot:left"):
        with running("up", "-i", str(inventory), "--no-verify") as killed:
            wait_for_step(NAMES[0], step, killed)
            if step == "template:left":
                wait_until("its own lab", made, limit=30, interval=0.1)
                time.sleep(1)  # its daemon, perhaps its machine
        if step == "template:left":
            [lab] = unfinished()
            cli("down", "-i", str(inventory))
            assert unfinished() == left_behind(lab) == []
    cli("up", "-i", str(inventory), "--no-verify")
    assert healthy(inventory)
    assert unfinished() == []
    cli("down", "-i", str(inventory))


def test_two_labs_start_from_one_template_at_once_and_their_nodes_share_nothing(inventories):
    """Name, machine id, host key, MACs, random numbers; each node is reached by the key that its own lab knows."""
    argv = [*COMMAND, "up", "--json", "-i"]
    processes = [
        subprocess.Popen([*argv, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home())
        for file in inventories.values()
    ]
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        report = json.loads(out)
        assert (report["restored"], report["not_cloned"], report["verdict"]) == (None, None, "PASS")
        assert {f"clone:{n}" for n in NODES} <= set(report["steps"])
    said = {(name, node): words for name, f in inventories.items() for node, words in identities(f).items()}
    for one in said:
        for other in said:
            # nodes of the same number in two labs have the same name and the same addresses, so the same MACs
            alike = set() if one[1] != other[1] else {one[1], *(w for w in said[one] if w.count(":") == 5)}
            assert one == other or said[one] & said[other] <= alike, (one, other)
    uuids = set()
    for file in inventories.values():
        with load_lab(str(file)).closing() as lab:
            uuids |= {lab.hypervisor().domain(n).UUIDString() for n in NODES}
            for node in NODES:
                assert lab.host_key(node).public.split()[1] in said[lab.id, node]
        assert healthy(file)
    assert len(uuids) == 4


def test_clones_are_saved_restored_and_booted_like_any_machine(inventories):
    inventory = str(inventories[NAMES[0]])
    before = identities(inventory)
    cli("snapshot", "save", "-i", inventory, "of-clones")
    cli("stop", "-i", inventory)
    cli("snapshot", "restore", "-i", inventory, "of-clones")
    cli("stop", "-i", inventory)
    cli("start", "-i", inventory)  # boots from the disk that came with the memory
    assert healthy(inventory)
    for node, words in identities(inventory).items():
        assert len(words & before[node]) >= 5  # name, machine id, host key, two MACs
