"""A seed as a scenario, the command that replays it, and what a run of it leaves."""

import subprocess

import pytest

from testbed.backends.guest import Guest
from testbed.errors import BadInput
from testbed.faults.leftovers import script
from testbed.model.verdict import Outcome, failed, inconclusive, not_applicable, passed
from testbed.workflows.chaos import replay, scenario_of, with_leftovers
from testbed.workflows.loading import load_lab


@pytest.fixture(scope="module")
def lab():
    return load_lab("bookinfo")


def test_a_seed_is_the_same_scenario_each_time(lab):
    one, again, other = (scenario_of(lab, seed, 180.0) for seed in (1, 1, 2))
    assert one == again
    assert one.each_step()[0].when.faults != other.each_step()[0].when.faults


def test_the_scenario_calls_whom_most_answer_and_spares_who_calls(lab):
    scenario = scenario_of(lab, 1, 600.0)
    when = scenario.each_step()[0].when
    assert (when.from_, when.service, when.duration) == ("client-v1", "reviews", 600.0)
    hit = {name for f in when.faults for name in f.target}
    assert hit and not hit & {"client", "client-v1", "edge", "ingressgateway"}


def test_too_short_a_time_is_bad_input(lab):
    with pytest.raises(BadInput, match="45 s"):
        scenario_of(lab, 1, 20.0)


def test_a_replay_names_all_that_the_schedule_depends_on(lab):
    said = replay(lab, 7, 3600.0)
    assert said == f"testbed verify --chaos --seed 7 --for 3600s -i {lab.file}"
    assert said in scenario_of(lab, 7, 3600.0).description


def test_what_is_left_behind_is_a_fail_whatever_the_mesh_did():
    left = ["app-1: the note of a fault: freeze app-1", "b", "c", "d"]
    for verdict in (passed("well", {"requests": 9.0}), inconclusive("hm"), not_applicable("no")):
        together = with_leftovers(verdict, left)
        assert together.outcome is Outcome.FAIL
        assert together.reason == "left behind: app-1: the note of a fault: freeze app-1; b; c and 1 more"
    assert with_leftovers(passed("well", {"requests": 9.0}), ()).outcome is Outcome.PASS
    assert with_leftovers(passed("well", {"requests": 9.0}), ()).numbers == {"requests": 9.0}
    assert with_leftovers(failed("ill"), ()).outcome is Outcome.FAIL
    assert with_leftovers(inconclusive("hm"), ()).outcome is Outcome.INCONCLUSIVE
    assert with_leftovers(not_applicable("no"), ()).outcome is Outcome.NOT_APPLICABLE


def test_the_script_that_looks_for_leftovers_is_one_that_a_shell_reads(lab):
    text = script(lab.topology.workloads, Guest())
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "testbed-program@reviews-v2" in text
    assert "testbed-program@client-v1" not in text and "testbed-program@ingressgateway" not in text


def test_the_script_names_what_it_finds(tmp_path):
    """On a host that is no guest almost everything is missing: it is said, and the script goes on to its end."""
    text = "NOW=$(($(date +%s) - 3600)).5\n" + script((), Guest())
    done = subprocess.run(["sh", "-c", text], text=True, capture_output=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1] == "looked"
    assert "its mesh NIC has no carrier" in lines
    assert any(line.startswith("its clock is off by 3") for line in lines)
