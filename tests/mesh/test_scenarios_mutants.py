"""Each shipped scenario fails on a mesh that was broken on purpose, and every expectation fails somewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scenario_lab import ScenarioMesh
from shipped_scenarios import PLAIN, SHIPPED, started, written

from testbed.model.verdict import Outcome, Verdict
from testbed.report import ScenarioRecord
from testbed.scenarios import run_scenario
from testbed.scenarios.building import BUILDERS, walk
from testbed.scenarios.mutants import run_mutants

OVER_TIME = {name for name in BUILDERS if name.startswith("timeTo")}
OVER_TIME |= {"rescheduled", "errorsDuring", "noErrors", "goodput", "invariants", "isolation"}
"""Expectations of steps with faults: seen failing on machines, and in test_faults_mesh.py."""
SEEN_FAILING: set[str] = set()
"""Expectations that have failed on the Envoys of this run, each on a mesh that was broken on purpose."""
MUTATED: set[str] = set()


def note(record: ScenarioRecord) -> ScenarioRecord:
    """Remember what has failed; the step's only expectation, where it has one."""
    several = bool(record.scenario.steps)
    steps = {s.name or (f"step {n}" if several else ""): s for n, s in enumerate(record.scenario.each_step(), 1)}
    for step in record.steps:
        if step.verdict.outcome is Outcome.FAIL and not step.refused:
            leaves = list(walk(steps[step.name].expect))
            SEEN_FAILING.update(failing(step.verdict) or {name for name, _ in leaves if len(leaves) == 1})
    return record


def failing(verdict: Verdict) -> set[str]:
    found = set()
    for name, part in verdict.parts:
        if part.outcome is Outcome.FAIL:
            found |= failing(part) or {name}
    return found


@pytest.fixture(scope="module")
def mesh() -> Iterator[ScenarioMesh]:
    yield from started()


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_every_mutant_of_a_shipped_scenario_is_noticed(mesh, file):
    score = run_mutants(file, mesh.lab, keep=note)
    MUTATED.add(file.scenario.name)
    assert score.unsound == ""
    assert score.counted >= 1
    assert {r.name: r.reason for r in score.results if r.counts and not r.killed} == {}
    assert {r.name: r.refused for r in score.results if r.refused} == {}


def test_what_a_proxy_has_can_be_expected(mesh):
    text = (
        "when: {{from: client, service: reviews, path: /reviews/0, requests: 1}}\n"
        "expect: {{config: {{workload: client-v1, clusters: ['outbound\\|9080\\|v1\\|reviews.default.svc.cluster.local'], "
        "absent: ['{absent}']}}}}\n"
    )
    assert run_scenario(written(text.format(absent=r"outbound\|1\|.*")), mesh.lab).outcome is Outcome.PASS
    broken = note(run_scenario(written(text.format(absent=r"outbound\|9080\|v2\|.*")), mesh.lab))
    assert broken.outcome is Outcome.FAIL


ROUTE = """given:
  resources:
    - apiVersion: networking.istio.io/v1
      kind: VirtualService
      metadata: {name: reviews}
      spec: {hosts: [reviews], http: [%s]}
when: {from: client, service: reviews, path: /reviews/0}
expect: %s
"""
V1 = "{route: [{destination: {host: reviews, subset: v1}}]}"
V1_AND_V3 = (
    "{route: [{destination: {host: reviews, subset: v1}, weight: 80},"
    " {destination: {host: reviews, subset: v3}, weight: 20}]}"
)
ABORTED = "{fault: {abort: {percentage: {value: 100}, httpStatus: 418}}, route: [{destination: {host: reviews}}]}"
OUTLIER = """given:
  settings: {reviews-v1: {status: 503}}
  resources:
    - apiVersion: networking.istio.io/v1
      kind: DestinationRule
      metadata: {name: reviews}
      spec:
        host: reviews
        trafficPolicy:
          loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}
          outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 50}
    - apiVersion: networking.istio.io/v1
      kind: VirtualService
      metadata: {name: reviews}
      spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
steps:
  - when: {from: client, service: reviews, path: /reviews/0, concurrency: 1, rate: 25, requests: 60}
    expect: {ejected: {workload: reviews-v1, after: 3}}
  - when: {from: client, service: reviews, path: /reviews/0, rate: 10, requests: 35}
    expect: {readmitted: {workload: reviews-v1, within: 3s}}
"""


@pytest.mark.parametrize(
    ("kept", "broken"),
    [
        (ROUTE % (V1, "{never: {arm: v3, below: 10}}"), ROUTE % (V1_AND_V3, "{never: {arm: v3, below: 10}}")),
        (ROUTE % (V1_AND_V3, "{atLeastOnce: {arm: v3, above: 10}}"), ROUTE % (V1, "{atLeastOnce: {arm: v3, above: 10}}")),
        (ROUTE % (V1, "{body: {contains: reviewer}}"), ROUTE % (ABORTED, "{body: {contains: reviewer}}")),
        (None, OUTLIER),  # the shipped outlier shows that it can pass, and mtls that the next two can
        (None, PLAIN % "encrypted"),
        (None, PLAIN % "identity"),
    ],
    ids=["never", "atLeastOnce", "body", "readmitted", "encrypted", "identity"],
)  # fmt: skip
def test_what_no_mutant_makes_fail_by_itself_fails_on_a_broken_mesh_too(mesh, kept, broken):
    """All other expectations fail under the mutants, or above; whether each did is asked at the end."""
    assert kept is None or run_scenario(written(kept), mesh.lab).outcome is Outcome.PASS
    record = run_scenario(written(broken), mesh.lab)
    assert [s.verdict.outcome for s in record.steps][-1] is Outcome.FAIL, record.verdict.reason
    assert all(s.verdict.passed for s in record.steps[:-1])
    note(record)


@pytest.mark.slow
def test_every_expectation_was_seen_failing_on_a_broken_mesh():
    """Of the tests above together; a part of them alone shows nothing of the kind."""
    missing = {f.scenario.name for f in SHIPPED} - MUTATED
    if missing:
        pytest.skip(f"not all mutants were run: {', '.join(sorted(missing))}")
    assert set(BUILDERS) - OVER_TIME - SEEN_FAILING == set()
