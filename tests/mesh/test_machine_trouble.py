"""A client whose packets get lost, or that hardly runs: the mesh is not blamed for it.

Here a machine is a network namespace.  Every hundredth packet that it sends or gets is dropped, counted and not drawn,
so each run loses the same share.  ``tests/vm/test_faults_verdicts.py`` does it to a real machine.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from harness_network import command, processes_in
from scenario_lab import ROOT, ScenarioMesh, shipped_resources

from testbed.model.verdict import Outcome
from testbed.scenarios import find, run_scenario

LOSSES = """
table inet losses {
  chain sent { type filter hook output priority 300; oifname != "lo" numgen inc mod 100 0 counter drop; }
  chain got { type filter hook input priority 300; iifname != "lo" numgen inc mod 100 0 counter drop; }
}
"""
SLICE = 0.25
"""Seconds in which a processor that is wanted elsewhere runs the client once."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[ScenarioMesh]:
    with ScenarioMesh.from_inventory(ROOT / "inventories/bookinfo.yaml") as made:
        made.open_outside()
        made.apply(shipped_resources("bookinfo"), limit=60)
        yield made


@contextmanager
def losing(mesh: ScenarioMesh, workload: str) -> Iterator[None]:
    inside = ("ip", "netns", "exec", mesh.network.namespace(workload), "nft")
    command(*inside, "-f", "-", stdin=LOSSES)
    try:
        yield
        dropped = command(*inside, "list", "table", "inet", "losses")
        assert "counter packets 0 " not in dropped
    finally:
        command(*inside, "delete", "table", "inet", "losses")


@contextmanager
def hogged(mesh: ScenarioMesh, workload: str) -> Iterator[None]:
    """Everything of the workload runs a fifth of the time, a slice at a time."""
    over = threading.Event()

    def hold(number: int) -> None:
        for pid in processes_in(mesh.network.namespace(workload)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def run() -> None:
        while not over.is_set():
            hold(signal.SIGSTOP)
            over.wait(SLICE * 0.8)
            hold(signal.SIGCONT)
            over.wait(SLICE * 0.2)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("name", ["reviews-split", "timeout-retries", "fault-injection", "connection-pool", "mtls"])
def test_a_client_that_loses_packets_is_no_fault_of_the_mesh(mesh, name):
    (file,) = find([name])
    with losing(mesh, "client-v1"):
        record = run_scenario(file, replace(mesh.lab, machines=True))
    assert record.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE), record.verdict.reason


def test_a_client_that_hardly_runs_is_no_fault_of_the_mesh(mesh):
    """Of time a namespace says nothing: its processor is the host's."""
    (file,) = find(["reviews-split"])
    with hogged(mesh, "client-v1"):
        record = run_scenario(file, replace(mesh.lab, machines=True))
    assert record.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE), record.verdict.reason
