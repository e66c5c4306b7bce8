"""Notes of faults: what a later command can tell from them, and whether somebody is left to undo them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_lab import fault

from testbed.errors import LabError
from testbed.faults.records import Owner, Standing, new_standing


def test_a_command_that_lives_owns_its_faults():
    assert Owner.this().lives
    assert not new_standing(fault("freeze", "one"), owned=True).orphaned


def test_a_command_that_was_killed_leaves_orphans():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        began = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        owner = Owner(child.pid, began)
        assert owner.lives
        child.kill()
    assert not owner.lives
    assert Standing("1", fault("freeze", "one"), owner, 0.0).orphaned


def test_another_process_with_the_same_number_is_not_the_owner():
    assert not Owner(os.getpid(), Owner.this().began + 1).lives
    assert not Owner(os.getpid(), 0).lives


def test_what_stands_until_it_is_cleared_is_nobodys_orphan():
    assert not new_standing(fault("freeze", "one"), owned=False).orphaned


@pytest.mark.parametrize("owned", [True, False])
def test_a_note_is_read_back_as_it_was_written(owned):
    made = new_standing(fault("partition", "one", peer=["two"], oneWay=True), owned=owned)
    again = Standing.decode(made.id, made.encode(), ("one",))
    assert (again.fault, again.owner, again.since, again.nodes) == (made.fault, made.owner, made.since, ("one",))


def test_a_note_says_where_a_pod_was_that_was_broken_and_an_older_one_does_not():
    made = new_standing(fault("sidecar-kill", "reviews-v1"), owned=False, places={"reviews-v1": "two"})
    assert Standing.decode(made.id, made.encode(), ("two",)).places == {"reviews-v1": "two"}
    older = {k: v for k, v in json.loads(made.encode()).items() if k != "places"}
    assert Standing.decode(made.id, json.dumps(older), ("two",)).places == {}


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"fault": {"kind": "melt"}, "owner": None, "since": 0})])
def test_a_note_that_makes_no_sense_is_an_error_of_the_lab(text):
    with pytest.raises(LabError, match="fault abc"):
        Standing.decode("abc", text, ("one",))
