"""A run with faults keeps what it saw, whatever goes wrong meanwhile; on a mesh that is played."""

import json
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fake_lab import FakeConnection, FakeMesh

from testbed.errors import LabError
from testbed.faults.breaking import Made
from testbed.faults.proof import Proof
from testbed.guests import Completed
from testbed.model.scenario import read_scenario
from testbed.model.verdict import Outcome
from testbed.report.plain import fault_summary
from testbed.scenarios import ScenarioFile, faulting, run_scenario
from testbed.scenarios.following import Follower

FROZEN = """name: frozen
description: d
promise: p
when:
  {{from: client, service: reviews, rate: 20, for: 3s, faults: [
    {{kind: freeze, target: reviews-v1, at: 500ms, for: 300ms}},
    {{kind: freeze, target: reviews-v2, at: 1s, for: 300ms}}]}}
expect: {expect}
"""
INVARIANTS = "{invariants: {stranger: false}}"


def frozen(expect=INVARIANTS):
    return ScenarioFile(Path("frozen.yaml"), read_scenario(FROZEN.format(expect=expect), "frozen.yaml"))


class Breaker:
    """Breaks nothing, and says what it is told to say."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.trouble, self.during = {}, {}
        self.held = True

    def unable(self, fault):
        return ""

    @contextmanager
    def breaking(self, fault, begun):
        [name] = fault.target
        node = self.mesh.topology.workload(name).node
        made = Made(fault, "1", (node,), began=time.monotonic())
        begun(made)
        if name in self.trouble:
            raise self.trouble[name]
        made.bit, made.proof = time.monotonic(), Proof(self.held, "so it was measured")
        with suppress(KeyError):
            self.during[name]()
        yield made
        self.mesh.answer = None
        made.ended = made.well = time.monotonic()

    def settle(self, made):
        pass


@pytest.fixture
def mesh(monkeypatch):
    fake = FakeMesh()
    plain = FakeConnection.run

    def run(self, argv, **options):
        done = plain(self, argv, **options)
        if argv[0] == "sh" and "uptime" in argv[-1]:
            return Completed(0, f"{time.monotonic()} {time.time()}".encode(), b"")
        return done

    monkeypatch.setattr(FakeConnection, "run", run)
    monkeypatch.setattr(faulting, "holdings", lambda lab: {})
    yield fake
    fake.shutdown()
    fake.server_close()


def run(mesh, breaker, file=None, follower=None, **changes):
    lab = replace(mesh.lab(), breaker=breaker, **changes)
    record = run_scenario(file or frozen(), lab, follower=follower)
    return record, record.steps[0]


def test_all_is_well_when_nothing_was_lost(mesh):
    record, step = run(mesh, Breaker(mesh))
    assert record.outcome is Outcome.PASS, record.verdict.reason
    assert (len(step.samples), [f.held for f in step.faults]) == (60, [True, True])
    found = fault_summary(step)
    assert (found["requests"], found["faults_by_kind"], found["lost"]) == (60, {"freeze": 2}, 0)
    assert {c.node for c in step.clocks} == {w.node for w in mesh.topology.workloads}
    assert all(abs(c.before) < 1 and abs(c.after) < 1 for c in step.clocks)


@pytest.mark.parametrize("trouble", [LabError("v1", "break it", "no answer"), ValueError("no number: ''")])
def test_a_fault_that_goes_wrong_loses_no_sample_and_is_counted(mesh, trouble):
    breaker = Breaker(mesh)
    breaker.trouble["reviews-v1"] = trouble
    record, step = run(mesh, breaker)
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    assert len(step.samples) == 60
    assert [(f.title, f.held) for f in step.faults] == [("freeze reviews-v1", False), ("freeze reviews-v2", True)]
    assert str(trouble) in step.spoiled[0]
    assert str(trouble) in record.verdict.reason


def test_a_scenario_without_invariants_says_nothing_when_a_fault_went_wrong(mesh):
    breaker = Breaker(mesh)
    breaker.trouble["reviews-v2"] = LabError("v2", "break it", "no answer")
    record, step = run(mesh, breaker, frozen("{status: 200}"))
    assert record.outcome is Outcome.INCONCLUSIVE and "no answer" in record.verdict.reason
    assert len(step.samples) == 60


def test_a_machine_that_can_not_be_asked_afterwards_loses_no_sample(mesh):
    breaker = Breaker(mesh)
    client = mesh.topology.workload("client-v1").node
    breaker.during["reviews-v2"] = lambda: mesh.dead_nodes.add(client)
    record, step = run(mesh, breaker)
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    assert len(step.samples) == 60
    assert any("does not answer" in words for words in step.trouble)


def test_traffic_that_breaks_off_leaves_what_was_sampled(mesh, monkeypatch):
    stream = FakeConnection.stream

    @contextmanager
    def cut(self, argv, **options):
        with stream(self, argv, **options) as lines:
            yield (line for line, _ in zip(lines, range(12), strict=False))

    monkeypatch.setattr(FakeConnection, "stream", cut)
    record, step = run(mesh, Breaker(mesh))
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    assert 0 < len(step.samples) < 60
    assert "the agent ended" in step.trouble[0]


def test_what_is_lost_without_a_cause_fails_and_is_in_the_summary(mesh):
    breaker = Breaker(mesh)
    breaker.during["reviews-v2"] = lambda: setattr(mesh, "answer", lambda _: (503, {}, b"odd"))
    record, step = run(mesh, breaker)
    assert record.outcome is Outcome.FAIL, record.verdict.reason
    found = fault_summary(step)
    assert found["unexplained"] == found["lost"] == len(step.losses) > 0


def test_a_loss_that_only_an_unproved_fault_explains_is_in_doubt(mesh):
    breaker = Breaker(mesh)
    hung = (503, {}, b"upstream request timeout")
    breaker.during["reviews-v2"] = lambda: setattr(mesh, "answer", lambda _: hung)
    breaker.held = False
    record, step = run(mesh, breaker)
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    found = fault_summary(step)
    assert found["unexplained"] == 0 and sum(found["lost_in_doubt"].values()) == found["lost"] > 0


def test_strangers_try_every_instance_and_those_that_reach_nobody_prove_nothing(mesh):
    record, _ = run(mesh, Breaker(mesh), frozen("{invariants: {}}"))
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "turned a stranger away 0 times" in record.verdict.reason


def test_a_stranger_that_can_not_be_sent_is_no_stranger_kept_out(mesh, monkeypatch):
    stream = FakeConnection.stream

    def refuse(self, argv, **options):
        if "setpriv" in argv:
            raise LabError(self.node, "stream", "no channel")
        return stream(self, argv, **options)

    monkeypatch.setattr(FakeConnection, "stream", refuse)
    record, step = run(mesh, Breaker(mesh), frozen("{invariants: {}}"))
    assert record.outcome is Outcome.INCONCLUSIVE
    instances = sorted(words.partition(":")[0] for words in step.trouble)
    assert instances == ["the stranger at reviews-v1", "the stranger at reviews-v2"]


def test_a_run_is_written_down_as_it_happens(mesh, tmp_path, monkeypatch):
    monkeypatch.setattr("testbed.scenarios.following.EVERY", 0.5)
    said, file = [], tmp_path / "evidence" / "run.jsonl"
    follower = Follower(file, said.append)
    breaker = Breaker(mesh)
    breaker.trouble["reviews-v2"] = LabError("v2", "break it", "no answer")
    run(mesh, breaker, follower=follower)
    follower.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum("request" in line for line in lines) == 60
    whats = [(line["fault"], line["what"]) for line in lines if "fault" in line]
    assert whats == [
        ("freeze reviews-v1", "begun"),
        ("freeze reviews-v1", "mended"),
        ("freeze reviews-v2", "begun"),
        ("freeze reviews-v2", "went wrong"),
    ]
    assert ": 2 of 2 faults (1 unproved), " in said[-1]


def test_how_long_machines_had_no_processor_is_on_the_runs_clock(mesh):
    looks = iter(range(10**6))
    record, _ = run(mesh, Breaker(mesh), threads=lambda: {"reviews": {7: next(looks) * 0.5}})
    assert record.verdict.numbers["without a processor"] == 1.0
    assert record.outcome is Outcome.PASS
