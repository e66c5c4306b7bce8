"""The shipped scenarios and the lab in namespaces that they run on, for the tests of each speed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

from scenario_lab import ROOT, ScenarioMesh, shipped_resources

from testbed.model.scenario import read_scenario
from testbed.scenarios import ScenarioFile, find

SEED = int(os.environ.get("TESTBED_ORDER_SEED", "5"))
"""Scenarios are run on one mesh in an order that nobody chose: none may rest on what another left behind."""
SHIPPED = [f for f in find([]) if "echo" not in f.scenario.needs]
random.Random(SEED).shuffle(SHIPPED)


def started() -> Iterator[ScenarioMesh]:
    """The default lab, with its resources in force and a way in from outside."""
    with ScenarioMesh.from_inventory(ROOT / "inventories/bookinfo.yaml") as made:
        made.open_outside()
        made.apply(shipped_resources("bookinfo"), limit=60)
        yield made


def written(text: str) -> ScenarioFile:
    """A scenario from its ``given``, ``when`` and ``expect``."""
    head = "name: written\ndescription: d\npromise: p\n"
    return ScenarioFile(Path(__file__), read_scenario(head + text, "written.yaml"))


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
