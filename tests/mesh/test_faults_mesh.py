"""What the mesh makes of an instance that hangs: measured with real Envoys, and noticed when its protection is gone.

Here a machine is a network namespace, and what it hangs by is SIGSTOP; tests/vm breaks real ones.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from harness_network import processes_in
from scenario_lab import ROOT, ScenarioMesh, shipped_resources

from testbed.faults.breaking import Made
from testbed.faults.proof import Proof
from testbed.model.expectation import Expectation
from testbed.model.fault import Fault
from testbed.model.scenario import Setting, read_scenario
from testbed.model.verdict import Outcome
from testbed.report.timeline import timeline_plot
from testbed.scenarios import ScenarioFile, find, run_scenario
from testbed.scenarios.mutants import mutants_of
from testbed.waiting import NotYet, wait_until


class SidecarKiller:
    """Kills a workload's proxy, holds it down, and starts it as a node's unit does."""

    def __init__(self, mesh: ScenarioMesh) -> None:
        self.mesh = mesh

    def unable(self, fault: Fault) -> str:
        return ""

    @contextmanager
    def breaking(self, fault: Fault, begun: Callable[[Made], None]) -> Iterator[Made]:
        [name] = fault.target
        made = Made(fault, "1", fault.target, began=time.monotonic())
        begun(made)
        proxy = Path(f"/proc/{self.mesh.pid(name)}/exe")
        os.kill(self.mesh.pid(name), signal.SIGKILL)

        def gone() -> None:  # a dead process has none, reaped or not
            if proxy.exists():
                raise NotYet("it lives")

        try:
            wait_until("end of the proxy", gone, limit=5, interval=0.01)
            made.bit = time.monotonic()
            made.proof = Proof(True, "the proxy is gone")
            yield made
        finally:
            made.ended = time.monotonic()
            start = self.mesh.guest.command(self.mesh.guest.start, name)
            self.mesh.backend.connection(name).run(start)
            made.well = time.monotonic()

    def settle(self, made: Iterable[Made]) -> None:
        """The kernel has closed what the proxy had open."""


class Stopper:
    """Stops every process of a workload where it is, and lets it go on."""

    def __init__(self, mesh: ScenarioMesh) -> None:
        self.mesh = mesh
        self.weak = False

    def unable(self, fault: Fault) -> str:
        return ""

    @contextmanager
    def breaking(self, fault: Fault, begun: Callable[[Made], None]) -> Iterator[Made]:
        pids = [p for name in fault.target for p in processes_in(self.mesh.network.namespace(name))]
        nodes = tuple({self.mesh.topology.workload(name).node: None for name in fault.target})
        made = Made(fault, "1", nodes, began=time.monotonic())
        begun(made)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def stopped() -> None:  # the one that runs right now stops a moment later
            states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}
            if states != {"T"}:
                raise NotYet(f"states {states}")

        try:
            wait_until("every process stopped", stopped, limit=5, interval=0.01)
            made.bit = time.monotonic()
            made.proof = Proof(not self.weak, "every process is stopped")
            yield made
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            made.ended = made.well = time.monotonic()

    def settle(self, made: Iterable[Made]) -> None:
        """Stopped processes forget nothing."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[ScenarioMesh]:
    with ScenarioMesh.from_inventory(ROOT / "inventories/bookinfo.yaml") as made:
        made.apply(shipped_resources("bookinfo"), limit=60)
        yield made


def frozen(seconds: float, at: str, lasts: str, **expected):
    return in_short("frozen-reviews", 20.0, seconds, at, lasts, **expected)


def in_short(name: str, rate: float, seconds: float, at: str, lasts: str, **expected):
    """A shipped scenario with less traffic and a shorter fault."""
    [file] = find([name])
    when = file.scenario.when
    fault = when.faults[0].model_dump(mode="json", by_alias=True, exclude_none=True) | {"at": at, "for": lasts}
    when = when.model_copy(update={"rate": rate, "duration": seconds, "faults": [Fault.model_validate(fault)]})
    expect = Expectation.model_validate(expected)
    return replace(file, scenario=file.scenario.model_copy(update={"when": when, "expect": expect}))


def test_an_instance_that_hangs_is_ejected_and_taken_back_and_no_caller_notices(mesh):
    file = frozen(
        17.0,
        "2s",
        "4s",
        timeToEject={"workload": "reviews-v2", "within": "4s"},
        noErrors=True,
        timeToReadmit={"workload": "reviews-v2", "within": "12s"},
        goodput={"during": 100, "settle": "1s"},
        isolation={"service": "details", "path": "/details/0", "rate": 10, "slower": 5},
    )
    record = run_scenario(file, replace(mesh.lab, breaker=Stopper(mesh)))
    assert record.outcome is Outcome.PASS, record.verdict.reason
    numbers = {name: verdict.numbers for name, verdict in record.verdict.parts}
    # the first of three is given up by connectTimeout at the earliest
    assert numbers["timeToEject"]["seconds"] + numbers["timeToEject"]["resolution"] >= 2.0
    [step] = record.steps
    assert next(m.words for m in step.marks) == "reviews-v2 ejected (consecutive 5xx)"
    assert 'class="band"' in timeline_plot(step)


def test_without_its_outlier_detection_the_scenario_fails(mesh):
    file = frozen(5.0, "1s", "3s", timeToEject={"workload": "reviews-v2", "within": "2s"})
    [control] = [m for m in mutants_of(file, mesh.backend.applied()) if m.key.kind == "DestinationRule"]
    record = run_scenario(file, replace(mesh.lab, breaker=Stopper(mesh)), change=control.change)
    assert record.outcome is Outcome.FAIL, record.verdict.reason


def test_a_killed_sidecar_costs_no_caller_an_answer_and_its_instance_comes_back(mesh):
    expected = {"noErrors": True, "timeToReadmit": {"workload": "reviews-v2", "within": "8s"}}
    file = in_short("sidecar-killed", 10.0, 9.0, "2s", "1s", **expected)
    record = run_scenario(file, replace(mesh.lab, breaker=SidecarKiller(mesh)))
    assert record.outcome is Outcome.PASS, record.verdict.reason


def test_without_its_retries_a_killed_sidecar_costs_what_was_under_way(mesh):
    file = in_short("sidecar-killed", 10.0, 5.0, "2s", "1s", noErrors=True)
    [control] = mutants_of(file, mesh.backend.applied())
    record = run_scenario(file, replace(mesh.lab, breaker=SidecarKiller(mesh)), change=control.change)
    assert record.outcome is Outcome.FAIL, record.verdict.reason


WHEN = """name: broken
description: Nothing protects from what is broken.
promise: None that is kept.
when:
  {from: client, service: reviews, path: /reviews/0, rate: 20, for: 6s, timeout: 1s, faults: [
    {kind: freeze, target: [reviews-v2, details-v1], at: 2s, for: 2s}]}
"""
UNPROTECTED = """expect:
  timeToEject: {workload: reviews-v2, within: 1s}
  rescheduled: {workload: reviews-v2, within: 1s}
  timeToFailover: {within: 500ms}
  errorsDuring: {atMost: 2}
  goodput: {during: 100, after: false}
  isolation: {service: details, path: /details/0, rate: 20}
"""
LEFT_OUT = """given:
  resources:
    - apiVersion: networking.istio.io/v1
      kind: DestinationRule
      metadata: {name: reviews}
      spec:
        host: reviews
        subsets: [{name: v2, labels: {version: v2}}]
        trafficPolicy:
          connectionPool: {tcp: {connectTimeout: 200ms}}
          outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}
    - apiVersion: networking.istio.io/v1
      kind: VirtualService
      metadata: {name: reviews}
      spec:
        hosts: [reviews]
        http: [{route: [{destination: {host: reviews, subset: v2}}], timeout: 300ms, retries: {attempts: 0}}]
expect:
  timeToReadmit: {workload: reviews-v2, within: 1s}
  timeToRecover: {within: 1s}
  goodput: {after: true, settle: 1s}
"""


@pytest.mark.parametrize("expected", [UNPROTECTED, LEFT_OUT], ids=["unprotected", "left out"])
def test_every_expectation_over_time_fails_on_a_mesh_that_does_not_keep_it(mesh, expected):
    """But noErrors, see below.  Who is sent to the instance in the fault's last second is answered once it is over."""
    file = ScenarioFile(Path(__file__), read_scenario(WHEN + expected, "broken.yaml"))
    record = run_scenario(file, replace(mesh.lab, breaker=Stopper(mesh)))
    outcomes = {name: (verdict.outcome, verdict.reason) for name, verdict in record.verdict.parts}
    assert len(outcomes) == len(file.scenario.each_step()[0].expect.parts())
    assert {name: said for name, said in outcomes.items() if said[0] is not Outcome.FAIL} == {}


class Liar(Stopper):
    """Stops reviews-v2, whatever it was told."""

    @contextmanager
    def breaking(self, fault: Fault, begun: Callable[[Made], None]) -> Iterator[Made]:
        with super().breaking(fault.model_copy(update={"target": ("reviews-v2",)}), begun) as made:
            made.fault, made.nodes = fault, (self.mesh.topology.workload(fault.target[0]).node,)
            yield made


TOLD_AND_NOT = """name: told-and-not
description: An instance freezes twice, of which it is told once.
promise: Every loss has a cause.
when:
  {from: client, service: reviews, path: /reviews/0, rate: 20, for: 8s, timeout: 500ms, faults: [
    {kind: freeze, target: reviews-v2, at: 1s, for: 1s}, {kind: freeze, target: details-v1, at: 6s, for: 1s}]}
expect: {invariants: {stranger: false}}
"""


def test_what_is_lost_to_a_fault_is_told_from_what_is_lost_beside_one(mesh):
    file = ScenarioFile(Path(__file__), read_scenario(TOLD_AND_NOT, "told-and-not.yaml"))
    record = run_scenario(file, replace(mesh.lab, breaker=Liar(mesh)))
    [step] = record.steps
    assert record.outcome is Outcome.FAIL, record.verdict.reason
    assert {(x.cause, x.sent > 5) for x in step.losses} == {("freeze reviews-v2", False), ("", True)}
    unexplained = sum(not x.cause for x in step.losses)
    assert record.verdict.reason.startswith(f"{unexplained} unexplained: request ")


def test_a_fault_that_did_not_prove_itself_proves_nothing(mesh):
    weak = Stopper(mesh)
    weak.weak = True
    record = run_scenario(frozen(3.0, "1s", "1s", noErrors=True), replace(mesh.lab, breaker=weak))
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    assert "did not prove" in record.verdict.reason


def test_traffic_that_was_ill_before_the_fault_blames_nobody(mesh):
    file = frozen(3.0, "1s", "500ms", status=[200])
    ill = file.scenario.given.model_copy(update={"settings": {"reviews-v1": Setting(status=500)}})
    record = run_scenario(
        replace(file, scenario=file.scenario.model_copy(update={"given": ill})),
        replace(mesh.lab, breaker=Stopper(mesh)),
    )
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    assert "failed before any fault" in record.verdict.reason


def test_where_nothing_can_be_broken_a_fault_is_not_applicable(mesh):
    record = run_scenario(frozen(3.0, "1s", "1s", noErrors=True), mesh.lab)
    assert record.outcome is Outcome.NOT_APPLICABLE, record.verdict.reason


class Interrupter(Stopper):
    """Presses Ctrl-C once the machine is stopped."""

    @contextmanager
    def breaking(self, fault: Fault, *told: object) -> Iterator[Made]:
        with super().breaking(fault, *told) as made:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            yield made


def test_a_run_that_is_interrupted_mends_what_it_broke_and_puts_the_resources_back(mesh):
    before = mesh.backend.applied()
    with pytest.raises(KeyboardInterrupt):
        run_scenario(frozen(60.0, "1s", "50s", noErrors=True), replace(mesh.lab, breaker=Interrupter(mesh)))
    for pid in processes_in(mesh.network.namespace("reviews-v2")):
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"
    assert mesh.backend.diff(before).is_empty
