"""A seed as a scenario, the command that replays it, and what a run of it leaves."""

import subprocess
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from testbed.backends.guest import Guest
from testbed.cli.tables import chaos_lines
from testbed.errors import BadInput
from testbed.faults.leftovers import script
from testbed.model.verdict import Outcome, failed, inconclusive, not_applicable, passed
from testbed.report.plain import record_json
from testbed.report.record import FaultSpan, Loss, ScenarioRecord, StepRecord
from testbed.workflows.chaos import ChaosReport, chaos, replay, scenario_of, with_leftovers
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


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Runs that fail as long as a reset is among their faults, and what each was told."""
    runs = []

    def run_scenario(file, under_test, *, progress, follower):
        faults = file.scenario.each_step()[0].when.faults
        runs.append(faults)
        progress("a line")
        [journal] = list(tmp_path.glob("*.jsonl")) if len(runs) == 1 else [None]
        if journal is not None:
            follower.fault(faults[0], "begun", "")
            assert faults[0].title in journal.read_text()
        guilty = any(f.kind == "reset" for f in faults)
        verdict = failed("a loss without a cause") if guilty else passed("well")
        return ScenarioRecord(file.scenario, verdict, datetime.now(UTC), 1.0)

    module = "testbed.workflows.chaos."
    for name, instead in {
        "run_scenario": run_scenario,
        "require_up": lambda lab: None,
        "lab_under_test": lambda lab: None,
        "leftovers": lambda lab: (),
        "hold": lambda *_: nullcontext(),
        "_bring_back": lambda lab: None,
        "kept": lambda lab, under_test, record, evidence: record,
    }.items():
        monkeypatch.setattr(module + name, instead)
    return runs


def test_a_run_says_how_far_it_is_and_is_written_down_until_its_bundle_is(lab, played, tmp_path):
    said = []
    report = chaos(lab, 1, 60.0, evidence=tmp_path, progress=said.append)
    assert said == ["a line"]
    assert list(tmp_path.glob("*.jsonl")) == []
    assert report.replay == replay(lab, 1, 60.0)
    assert report.smaller == ()


def test_a_schedule_that_fails_is_made_smaller_and_shown(lab, played, tmp_path):
    seed = next(
        s for s in range(99) if "reset" in {f.kind for f in faults_of(lab, s)} and len(faults_of(lab, s)) > 3
    )
    report = chaos(lab, seed, 120.0, evidence=tmp_path, smaller=True)
    assert report.record.outcome is Outcome.FAIL
    assert 1 < len(played) <= 9
    assert len(report.smaller) < len(faults_of(lab, seed))
    assert "reset" in {f.kind for f in report.smaller}
    shown = "\n".join(chaos_lines(report))
    assert "a smaller schedule that fails as well:" in shown and "reset" in shown
    assert f"replay: {report.replay}" in shown and "left behind: nothing" in shown


def faults_of(lab, seed):
    return scenario_of(lab, seed, 120.0).each_step()[0].when.faults


def test_what_a_run_came_to_is_summed_up_for_people(lab):
    def span(title, held=True):
        return FaultSpan(title, ("app-1",), 1, 1, 2, 2, held, "it [said]", None)

    losses = (
        Loss(1, 1.0, "503", "freeze app-1", ("freeze",)),
        Loss(2, 1.0, "503", "freeze app-1 and reset app-2", ("freeze", "reset")),
        Loss(3, 1.0, "503", "", (), "no processor for app-1"),
        Loss(4, 1.0, "503", ""),
    )
    step = StepRecord("", passed("ok"), faults=(span("freeze app-1"), span("reset app-2", False)), losses=losses)
    record = ScenarioRecord(scenario_of(lab, 1, 60.0), passed("ok"), datetime.now(UTC), 1.0, (step,))
    lines = chaos_lines(ChaosReport(record, "testbed verify", ("app-1: the file x",)))
    assert [line.strip() for line in lines] == [
        "requests: 0",
        "faults: 2, 1 of them proved: 1 x freeze, 1 x reset",
        "lost: 4: 1 x freeze, 1 x freeze and reset",
        "unexplained: 1",
        "in doubt: 1 x no processor for app-1",
        "[yellow]not proved[/]: reset app-2: it \\[said]",
        "left behind: app-1: the file x",
        "replay: testbed verify",
    ]
    plain = record_json(record)["steps"][0]
    assert plain["under_faults"]["lost_by_cause"] == {"freeze app-1": 1, "freeze app-1 and reset app-2": 1}
    assert [x["cause"] for x in plain["losses"]][2:] == ["perhaps no processor for app-1", "unexplained"]
