"""The shipped scenarios on real Envoys: each passes as it stands, fails under its mutants, and cleans up after itself."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_network import processes_in
from scenario_lab import ROOT, ScenarioMesh, shipped_resources

from testbed.documents import parse
from testbed.model.scenario import read_scenario
from testbed.model.verdict import Outcome, Verdict
from testbed.report import ScenarioRecord, write_bundle
from testbed.resources import load
from testbed.scenarios import ScenarioFile, find, run_scenario
from testbed.scenarios.building import BUILDERS, walk
from testbed.scenarios.loading import read_file
from testbed.scenarios.mutants import run_mutants

SEED = int(os.environ.get("TESTBED_ORDER_SEED", "5"))
"""Scenarios are run on one mesh in an order that nobody chose: none may rest on what another left behind."""
SHIPPED = [f for f in find([]) if "echo" not in f.scenario.needs]
random.Random(SEED).shuffle(SHIPPED)
HERE = Path(__file__)
OVER_TIME = {name for name in BUILDERS if name.startswith("timeTo")}
OVER_TIME |= {"errorsDuring", "noErrors", "goodput", "invariants", "isolation"}
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
    with ScenarioMesh.from_inventory(ROOT / "inventories/bookinfo.yaml") as made:
        made.open_outside()
        made.apply(shipped_resources("bookinfo"), limit=60)
        yield made


def written(text: str) -> ScenarioFile:
    head = "name: written\ndescription: d\npromise: p\n"
    return ScenarioFile(HERE, read_scenario(head + text, "written.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_a_shipped_scenario_passes_and_leaves_the_lab_as_it_found_it(mesh, file, tmp_path):
    before = mesh.backend.applied()
    record = run_scenario(file, mesh.lab)
    assert record.outcome is Outcome.PASS, record.verdict.reason
    assert record.clean
    assert mesh.backend.applied() == before
    (written_record,) = write_bundle([record], tmp_path / "bundle", topology=mesh.topology)
    assert (Path(written_record.verdict.evidence) / "report.html").stat().st_size > 5000


def test_the_articles_files_keep_what_they_promise(mesh):
    record = run_scenario(read_file(HERE.with_name("article.yaml")), mesh.lab)
    assert record.outcome is Outcome.PASS, record.verdict.reason


def test_the_articles_halves_are_halves(mesh):
    """Counted among answers: on a busy host the file's own second of patience may end for some, in either half."""
    lab, file = shipped_resources("bookinfo"), ROOT / "playbooks/resources/article/traffic.yaml"
    mesh.apply(lab.merged(load(parse(file.read_text(), str(file)))), limit=60)
    try:
        asked = "http://productpage:9080/productpage"
        answers = mesh.request("client-v1", asked, n=100, headers={"x-testbed-alone": "yes"})
        counts = Counter(a.headers.get("x-version") for a in answers if a.status == 200)
        assert {a.status for a in answers} <= {200, 504}
        assert counts.keys() == {"v1", "v2"}
        assert min(counts.values()) > counts.total() / 4
    finally:
        mesh.apply(lab, limit=60)


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.scenario.name)
def test_every_mutant_of_a_shipped_scenario_is_noticed(mesh, file):
    score = run_mutants(file, mesh.lab, keep=note)
    MUTATED.add(file.scenario.name)
    assert score.unsound == ""
    assert score.counted >= 1
    assert {r.name: r.reason for r in score.results if r.counts and not r.killed} == {}
    assert {r.name: r.refused for r in score.results if r.refused} == {}


def test_the_smallest_lab_keeps_its_promises():
    with ScenarioMesh.from_inventory(ROOT / "inventories/two-nodes.yaml") as small:
        small.open_outside()
        small.apply(shipped_resources("two-nodes"), limit=60)
        for file in find(["echo-split", "grpc-split"]):
            record = run_scenario(file, small.lab)
            assert record.outcome is Outcome.PASS, record.verdict.reason
            score = run_mutants(file, small.lab)
            assert score.unsound == ""
            assert [r.name for r in score.results if r.counts and not r.killed] == []
            assert score.counted >= 2
        # over one connection, which is the point of balancing calls
        assert {s.connection for s in record.steps[0].samples} == {1}


def test_http2_goes_through_the_sidecars(mesh):
    file = written(
        "when: {from: client, service: reviews, path: /reviews/0, protocol: http2, concurrency: 10, requests: 60}\n"
        "expect: {all: [{status: 200}, {attempts: {service: reviews, each: 1}}, "
        "{telemetry: {at: client, fields: {protocol: HTTP/2}}}]}\n"
    )
    record = run_scenario(file, mesh.lab)
    assert record.outcome is Outcome.PASS, record.verdict.reason
    assert {s.connection for s in record.steps[0].samples} == {1}


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


PLAIN = """given:
  resources:
    - apiVersion: security.istio.io/v1
      kind: PeerAuthentication
      metadata: {name: default, namespace: istio-system}
      spec: {mtls: {mode: PERMISSIVE}}
    - apiVersion: networking.istio.io/v1
      kind: DestinationRule
      metadata: {name: reviews}
      spec: {host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}
    - apiVersion: networking.istio.io/v1
      kind: VirtualService
      metadata: {name: reviews}
      spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
when: {from: client, service: reviews, path: /reviews/0, requests: 10}
expect: {%s: {service: reviews}}
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


SPEAK_HTTP2 = "tls: {mode: DISABLE}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}"
CONTROL = PLAIN.replace("tls: {mode: DISABLE}", SPEAK_HTTP2).replace(
    "service: reviews}}", "service: reviews, plaintext: true}}"
)


def test_the_marker_is_found_where_proxies_compress_headers(mesh):
    record = run_scenario(written(CONTROL % "encrypted"), mesh.lab)
    assert record.outcome is Outcome.PASS, record.verdict.reason
    capture = record.steps[0].attachments["capture.pcap"]
    assert b"PRI * HTTP/2.0" in capture
    assert record.steps[0].spec.run.encode() not in capture


def test_encryption_without_its_control_is_no_pass(mesh):
    text = PLAIN.replace("PERMISSIVE", "STRICT").replace("DISABLE", "ISTIO_MUTUAL") % "encrypted"
    record = run_scenario(written(text), mesh.lab)
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "nothing shows that the capture works" in record.verdict.reason


STRANGER = (
    "when: {from: client, service: reviews, path: /reviews/0, mesh: false, connections: new, requests: 10}\n"
    "expect: {denied: {by: tls, at: %s}}\n"
)


@pytest.mark.parametrize(("place", "outcome"), [("reviews", Outcome.PASS), ("ratings", Outcome.INCONCLUSIVE)])
def test_where_a_stranger_was_cut_off_is_read_at_the_proxy_that_did_it(mesh, place, outcome):
    record = run_scenario(written(STRANGER % place), mesh.lab)
    assert record.outcome is outcome, record.verdict.reason


def test_a_program_that_is_dead_is_the_labs_trouble_not_the_meshs():
    """Half of the answers become errors; the mesh did nothing wrong, and is not blamed."""
    with ScenarioMesh.from_inventory(ROOT / "inventories/bookinfo.yaml") as broken:
        broken.apply(shipped_resources("bookinfo"), limit=60)
        namespace = broken.network.namespace("reviews-v1")
        for pid in processes_in(namespace):
            if b"bookinfo.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        (file,) = find(["reviews-split"])
        record = run_scenario(file, broken.lab)
    assert record.outcome is Outcome.INCONCLUSIVE, record.verdict.reason
    assert "the lab, not the mesh" in record.verdict.reason
