"""Certificates that are wrong are noticed at once, as connections are made anew; one that is renewed costs nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machine_breaking import CertificateLayer
from scenario_lab import ROOT, ScenarioMesh, shipped_resources

from testbed.model.scenario import read_scenario
from testbed.model.verdict import Outcome
from testbed.scenarios import ScenarioFile, run_scenario

WRONG = """name: wrong-certificate
description: The only ratings instance shows a certificate that nobody may trust, then the right one again.
promise: Callers that kept their connections notice it too.
when:
  {from: client, service: ratings, path: /ratings/0, rate: 20, for: 5s, timeout: 2s, faults: [
    {kind: KIND, target: ratings-v1, at: 1s, for: 2s}]}
given:
  resources:
    - apiVersion: networking.istio.io/v1
      kind: VirtualService
      metadata: {name: ratings}
      spec: {hosts: [ratings], http: [{route: [{destination: {host: ratings}}], retries: {attempts: 0}}]}
expect:
  errorsDuring: {atLeast: 30, atMost: 60}
  invariants: {stranger: false}
  timeToRecover: {within: 1s}
"""
RENEWED = """name: renewed-certificate
description: The certificate of ratings is renewed while every request makes a connection of its own.
promise: A certificate that is renewed costs no request.
given:
  resources:
    - apiVersion: networking.istio.io/v1
      kind: DestinationRule
      metadata: {name: ratings}
      spec: {host: ratings, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
    - apiVersion: networking.istio.io/v1
      kind: VirtualService
      metadata: {name: ratings}
      spec: {hosts: [ratings], http: [{route: [{destination: {host: ratings}}], retries: {attempts: 0}}]}
when:
  {from: client, service: ratings, path: /ratings/0, rate: 20, for: 4s, timeout: 10s, faults: [
    {kind: certificate-rotated, target: ratings-v1, at: 1s},
    {kind: certificate-rotated, target: ratings-v1, at: 2s}]}
expect: {noErrors: true}
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[ScenarioMesh]:
    with ScenarioMesh.from_inventory(ROOT / "inventories/bookinfo.yaml") as made:
        made.apply(shipped_resources("bookinfo"), limit=60)
        yield made


def run(mesh: ScenarioMesh, text: str, folder: Path):
    file = ScenarioFile(Path(__file__), read_scenario(text, "certificate.yaml"))
    return run_scenario(file, replace(mesh.lab, breaker=CertificateLayer(mesh, folder)))


@pytest.mark.parametrize("kind", ["certificate-foreign", "certificate-expired"])
def test_a_wrong_certificate_fails_every_caller_until_it_is_gone(mesh, tmp_path, kind):
    record = run(mesh, WRONG.replace("KIND", kind), tmp_path)
    assert record.outcome is Outcome.PASS, record.verdict.reason
    [step] = record.steps
    assert "connections are to be made anew" in step.faults[0].proof
    log = step.attachments["access/client-v1.log"].decode()  # why there was no connection, by the caller's proxy
    refused = [line for line in log.splitlines() if "CERTIFICATE_VERIFY_FAILED" in line]
    assert len(refused) >= 30, log


def test_a_certificate_is_renewed_under_load_and_no_request_is_lost(mesh, tmp_path):
    record = run(mesh, RENEWED, tmp_path)
    assert record.outcome is Outcome.PASS, record.verdict.reason
    [step] = record.steps
    assert len(step.faults) == 2 and len({fault.proof for fault in step.faults}) == 2
