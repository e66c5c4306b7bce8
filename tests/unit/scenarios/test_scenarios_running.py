"""A scenario's run, from resources to verdict, on a mesh that is played (see ``fake_lab``)."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_lab import WEIGHTS, FakeConnection, weights

from testbed.documents import parse
from testbed.errors import BadInput, LabError, MeshError, MeshLate
from testbed.model.scenario import Step, read_scenario
from testbed.model.verdict import Outcome, failed
from testbed.report.record import MachineRecord
from testbed.resources import load
from testbed.scenarios import ScenarioFile, check, run_scenario
from testbed.scenarios.blame import excuse
from testbed.scenarios.judge import REFUSED
from testbed.scenarios.mutants import run_mutants
from testbed.scenarios.overtime import SLOWER

HALF = """
name: half
description: d
promise: half and half
when: {from: client, service: reviews, concurrency: 2}
expect: {split: {service: reviews, weights: {v1: 50, v2: 50}, tolerance: 15}}
"""


WHEN = {"from": "client", "service": "reviews"}


def with_rule(field):
    text = WEIGHTS.format(v1=50, v2=50) + f"      {field}\n"
    return load(parse(text, "weights.yaml"))


def scenario(text: str) -> ScenarioFile:
    return ScenarioFile(Path("half.yaml"), read_scenario(text, "half.yaml"))


def test_a_split_that_is_as_declared_passes_and_counts_agree(mesh):
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.PASS, record.verdict.reason
    step = record.steps[0]
    assert 100 < len(step.samples) == len(step.arrivals)
    assert [s.seq for s in step.samples] == list(range(len(step.samples)))
    assert step.paths[0].points[-1][0] == len(step.samples)
    assert record.verdict.alpha == record.verdict.beta == 0.001


def test_changed_weights_fail_the_old_expectation(mesh):
    mesh.resources = weights(80, 20)
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.FAIL
    assert len(record.verdict.reason.splitlines()) <= 2
    assert "declared: v1 50.0%, v2 50.0%" in record.verdict.reason


def test_a_pass_keeps_the_callers_configuration_and_anything_else_all_of_those_concerned(mesh):
    kept = set(run_scenario(scenario(HALF), mesh.lab()).steps[0].attachments)
    assert kept == {
        "access/client-v1.log",
        "access/reviews-v1.log",
        "access/reviews-v2.log",
        "config/client-v1.json",
    }
    mesh.resources = weights(80, 20)
    step = run_scenario(scenario(HALF), mesh.lab()).steps[0]
    assert set(step.attachments) == kept | {"config/reviews-v1.json", "config/reviews-v2.json"}
    assert step.revisions.keys() == {w.name for w in mesh.topology.workloads}
    assert {m.node for m in step.machines} == {"one", "two"}


def test_given_resources_are_applied_and_taken_back(mesh):
    mesh.resources = weights(80, 20)
    before = mesh.resources
    given = weights(50, 50)
    text = HALF + f"given: {{resources: [{__import__('json').dumps(next(iter(given)).to_plain())}]}}\n"
    record = run_scenario(scenario(text), mesh.lab())
    assert record.outcome is Outcome.PASS
    assert mesh.resources == before
    assert record.clean
    assert "weight: 50" in record.steps[0].resources


def test_resources_that_the_mesh_refuses_are_a_fail(mesh):
    mesh.refuse = MeshError("client-v1", "rejected its configuration", "no such cluster")
    mesh.waited = 0.97
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.FAIL


def test_a_proxy_that_is_late_is_the_meshs_fault_unless_its_machine_had_too_much_to_do(mesh):
    mesh.refuse = MeshLate("client-v1", "take up its configuration", "it has not answered after 60 s")
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.FAIL
    mesh.waited = 0.97
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "after 60 s; processes on one waited for a processor 97% of the time" in record.verdict.reason
    namespaces = replace(mesh.lab(), machines=False)
    assert run_scenario(scenario(HALF), namespaces).outcome is Outcome.FAIL


def test_a_machine_that_does_not_answer_is_inconclusive_not_a_fail(mesh):
    mesh.resources = weights(80, 20)
    mesh.dead_nodes = {"two"}
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "the lab, not the mesh" in record.verdict.reason


def test_a_fail_blames_the_mesh_only_while_every_machine_answers(mesh):
    mesh.resources = weights(80, 20)
    mesh.dead_nodes = {"three"}
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "three: run true: it does not answer" in record.verdict.reason
    mesh.resources = weights(50, 50)
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("waited", "sent_again", "said"),
    [(0.97, 0, "97% of the time"), (0.2, 9, "TCP segments and had to send them again")],
)
def test_a_machine_that_is_busy_or_loses_packets_is_blamed_for_what_came_late_and_for_nothing_else(
    mesh, waited, sent_again, said
):
    when = {"from": "client", "service": "reviews"}
    late, wrong = {"latency": {"above": "5s"}}, {"header": {"name": "x-version", "equals": "v1"}}
    assert check(mesh.lab(), when=when, expect=late).outcome is Outcome.FAIL
    mesh.waited, mesh.sent_again = waited, sent_again
    record = check(mesh.lab(), when=when, expect=late)
    assert record.outcome is Outcome.INCONCLUSIVE
    assert said in record.verdict.reason.splitlines()[0]
    mesh.needless = sent_again  # the other end had it all: nothing was lost
    assert check(mesh.lab(), when=when, expect=late).outcome is (
        Outcome.FAIL if sent_again else Outcome.INCONCLUSIVE
    )
    assert check(mesh.lab(), when=when, expect=wrong).outcome is Outcome.FAIL
    assert check(mesh.lab(), when=when, expect={"all": [wrong, late]}).outcome is Outcome.FAIL
    assert check(mesh.lab(), when=when, expect={"status": 200}).outcome is Outcome.PASS


def test_under_faults_a_busy_caller_excuses_what_came_late_and_packets_sent_again_excuse_nothing():
    """They are sent again because of what was broken."""
    fault = {"kind": "freeze", "target": "one", "at": "1s", "for": "1s"}
    calm = {"when": {"from": "client", "service": "reviews", "rate": 5, "for": "9s"}, "expect": {"noErrors": True}}
    broken = Step.model_validate({**calm, "when": {**calm["when"], "faults": [fault]}})
    busy, lossy = MachineRecord("two", 0.97, 1000, 0, 0), MachineRecord("two", 0.1, 1000, 100, 0)
    for late in ("isolation", "timeToEject", "timeToReadmit", "timeToFailover", "timeToRecover"):
        assert "97% of the time" in excuse(late, failed(""), broken, [busy])
    assert not excuse("noErrors", failed(""), broken, [busy])
    assert "97% of the time" in excuse("goodput", failed("", {SLOWER: 9}), broken, [busy])
    assert not excuse("goodput", failed("", {"failures after": 9}), broken, [busy])
    assert not excuse("status", failed(""), broken, [lossy])
    assert excuse("status", failed(""), Step.model_validate(calm), [lossy])
    assert "while machines were broken" in excuse("status", failed("", {REFUSED: 9}), broken, [])
    assert not excuse("status", failed("", {REFUSED: 9}), Step.model_validate(calm), [])


def test_a_lost_packet_excuses_one_request_and_no_more(mesh):
    """Eight answers are looked at, all of them wrong."""
    when = {"from": "client", "service": "reviews"}
    mesh.sent_again = 1
    record = check(mesh.lab(), when=when, expect={"status": 418})
    lost = sum(m.lost for m in record.steps[0].machines)
    assert 0 < lost < 8
    assert record.outcome is Outcome.FAIL
    mesh.sent_again = 8
    record = check(mesh.lab(), when=when, expect={"status": 418})
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "8 requests broke what was expected, and the machines lost" in record.verdict.reason


OUT_AND_IN = """
name: out
description: d
promise: p
steps:
  - when: {from: client, service: reviews, concurrency: 1, rate: 50, requests: 50}
    expect: {ejected: {workload: reviews-v1, after: 3}}
  - when: {from: client, service: reviews, rate: 50, requests: 200}
    expect: {readmitted: {workload: reviews-v1, notBefore: %s, within: %s}}
"""


@pytest.mark.parametrize(
    ("not_before", "within", "outcome"),
    [("1.5s", "9s", Outcome.PASS), ("8s", "9s", Outcome.FAIL), ("500ms", "1s", Outcome.FAIL)],
)
def test_a_return_is_timed_from_the_last_failure_in_the_step_before(mesh, not_before, within, outcome):
    """It is out for two and a half seconds, of which the first step sees one."""
    failed_at, asked = [], []

    def answer(_):
        asked.append(1)
        # never in the first step, however slow that is
        back = len(asked) > 53 and time.monotonic() - failed_at[-1] > 2.5
        if len(failed_at) < 3:
            failed_at.append(time.monotonic())
            return 503, {"x-service": "reviews", "x-version": "v1", "x-instance": "reviews-v1"}, b""
        version = "v1" if back else "v2"
        return 200, {"x-service": "reviews", "x-version": version, "x-instance": f"reviews-{version}"}, b""

    mesh.answer = answer
    record = run_scenario(scenario(OUT_AND_IN % (not_before, within)), mesh.lab())
    ejected, readmitted = (s.verdict for s in record.steps)
    assert ejected.passed, ejected.reason
    assert readmitted.outcome is outcome, readmitted.reason
    assert "after its last failure" in readmitted.reason


def test_ids_missing_at_a_backend_are_inconclusive(mesh):
    mesh.forget = 0.02
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "not in the log of what arrived" in record.verdict.reason


def test_requests_that_arrive_more_often_than_they_are_answered_are_no_pass(mesh):
    """Something repeats them, and no route in force says so."""
    mesh.copies = 2
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "arrived more than once" in record.verdict.reason
    asked = check(mesh.lab(), when=WHEN, expect={"attempts": {"service": "reviews", "each": 2}})
    assert asked.outcome is Outcome.PASS
    mesh.resources = weights(80, 20)
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.FAIL


@pytest.mark.parametrize("field", ["retries: {attempts: 2}", "mirror: {host: reviews, subset: v2}"])
def test_where_a_route_repeats_or_copies_requests_they_may_arrive_more_often(mesh, field):
    mesh.copies = 2
    mesh.resources = with_rule(field)
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.PASS
    mesh.resources = with_rule("retries: {attempts: 0}")
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.INCONCLUSIVE


def test_samples_taken_while_a_revision_changed_are_thrown_away(mesh):
    mesh.revisions_change = 2
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.PASS
    assert record.steps[0].discarded > 50


def broken_for(every, reason):
    answer = (
        503,
        {},
        f"upstream connect error or disconnect/reset before headers. reset reason: {reason}".encode(),
    )
    return lambda headers: answer if int(headers["x-testbed-request"].rpartition("-")[2]) % every == 7 else None


def test_a_few_broken_connections_do_not_matter_and_many_are_inconclusive(mesh):
    mesh.answer = broken_for(100_000, "connection failure")
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.PASS
    mesh.answer = broken_for(10, "connection timeout")
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "found no connection" in record.verdict.reason


def test_refused_connections_are_the_meshs_fault_while_no_machine_was_in_trouble(mesh):
    """A packet that is lost makes nobody refuse."""
    mesh.answer = broken_for(10, "connection failure")
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.FAIL
    assert "were refused a connection" in record.verdict.reason
    mesh.waited = 0.97
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "97% of the time" in record.verdict.reason
    mesh.waited, mesh.sent_again = 0.2, 9
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.INCONCLUSIVE
    mesh.sent_again, mesh.dead_nodes = 0, {"three"}
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.INCONCLUSIVE


def test_connections_that_always_fail_on_healthy_machines_are_the_meshs_fault(mesh):
    mesh.answer = lambda _: (503, {}, b"upstream connect error or disconnect/reset before headers. TLS error")
    assert run_scenario(scenario(HALF), mesh.lab()).outcome is Outcome.FAIL


def test_an_answer_by_a_proxy_in_place_of_a_version_is_a_stray(mesh):
    mesh.answer = lambda headers: (
        (503, {}, b"no healthy upstream") if headers["x-testbed-request"][-1] == "3" else None
    )
    record = run_scenario(scenario(HALF), mesh.lab())
    assert record.outcome is Outcome.FAIL
    assert "answered by 503 'no healthy upstream'" in record.verdict.reason


def test_a_split_reads_samples_in_the_order_of_sending(mesh):
    """A slow version answers late; taken in the order of answers the quick one would seem to get more."""
    record = run_scenario(scenario(HALF.replace("concurrency: 2", "concurrency: 20")), mesh.lab())
    assert [s.seq for s in record.steps[0].samples] == list(range(len(record.steps[0].samples)))


def test_a_scenario_that_the_lab_lacks_something_for_is_not_applicable(mesh):
    assert run_scenario(scenario(HALF + "needs: [ratings]\n"), mesh.lab()).outcome is Outcome.NOT_APPLICABLE
    assert run_scenario(scenario(HALF + "features: [pods]\n"), mesh.lab()).verdict.reason == "no pods here"
    assert mesh.applies == 0


def test_settings_are_put_back_even_when_the_verdict_is_a_fail(mesh):
    text = HALF.replace("split: {service: reviews, weights: {v1: 50, v2: 50}, tolerance: 15}", "status: 503")
    record = run_scenario(scenario(text + "given: {settings: {reviews: {delay: 250ms}}}\n"), mesh.lab())
    assert record.outcome is Outcome.FAIL
    assert [w for w, body in mesh.settings if "0.25" in body] == ["reviews-v1", "reviews-v2"]
    assert mesh.settings[-2:] == [("reviews-v1", '{"reset": true}'), ("reviews-v2", '{"reset": true}')]


@pytest.mark.parametrize(
    "trouble", [LabError("two", "run true", "it does not answer"), b'{"delay": 0.25, "status": 0}']
)
def test_a_program_that_still_misbehaves_leaves_the_lab_not_as_it_was_found(mesh, monkeypatch, trouble):
    told = FakeConnection.told

    def no_reset(connection, argv):
        if argv[-1].endswith('{"reset": true}') and argv[1].endswith("reviews-v2"):
            if isinstance(trouble, LabError):
                raise trouble
            return trouble
        return told(connection, argv)

    monkeypatch.setattr(FakeConnection, "told", no_reset)
    file = scenario(HALF + "given: {settings: {reviews: {delay: 1ms}}}\n")
    record = run_scenario(file, mesh.lab())
    assert not record.clean
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "the lab could not be put back as it was: reviews-v2" in record.verdict.reason
    score = run_mutants(file, mesh.lab())
    assert score.left_behind
    assert score.percent is None
    assert score.results == ()  # the program's misbehaviour might be what is noticed


def test_a_resource_file_that_is_not_there_is_bad_input(mesh):
    with pytest.raises(BadInput, match="cannot be read"):
        run_scenario(scenario(HALF + "given: {resources: [nowhere.yaml]}\n"), mesh.lab())


def test_expectations_can_be_written_as_python_calls(mesh):
    when = {"from": "client", "service": "reviews"}
    assert check(mesh.lab(), when=when, expect={"status": 200}).outcome is Outcome.PASS
    assert check(mesh.lab(), when=when, expect={"status": 404}).outcome is Outcome.FAIL
    with pytest.raises(BadInput, match="unknown field 'stat'"):
        check(mesh.lab(), when=when, expect={"stat": 200})


def test_what_was_not_judged_is_told_beside_a_pass(mesh):
    expect = {"status": 200, "encrypted": {"service": "reviews"}}
    record = check(mesh.lab(), when={"from": "client", "service": "reviews"}, expect=expect)
    assert record.outcome is Outcome.PASS
    assert "not judged: encrypted: captures can't be taken" in record.verdict.reason
