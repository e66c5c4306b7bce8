"""The shipped scenarios on real Envoys: each passes as it stands and cleans up after itself."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_network import processes_in
from scenario_lab import ROOT, ScenarioMesh, shipped_resources
from shipped_scenarios import PLAIN, SHIPPED, started, written

from testbed.documents import parse
from testbed.model.verdict import Outcome
from testbed.report import write_bundle
from testbed.resources import load
from testbed.scenarios import find, run_scenario
from testbed.scenarios.loading import read_file
from testbed.scenarios.mutants import run_mutants


@pytest.fixture(scope="module")
def mesh() -> Iterator[ScenarioMesh]:
    yield from started()


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
    record = run_scenario(read_file(Path(__file__).with_name("article.yaml")), mesh.lab)
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
