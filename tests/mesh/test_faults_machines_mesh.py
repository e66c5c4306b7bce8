"""The shipped scenarios in which machines are lost, with real Envoys; each FAILs without what protects from it.

Here a machine is its workloads' network namespaces, taken off the wire and emptied.  How soon it is back is not asked:
that is the host's doing.  On machines the same files are run as they are: docs/reference/faults.md has what came out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from machine_breaking import PowerCutter
from scenario_lab import ROOT, ScenarioMesh, shipped_resources

from testbed.model.verdict import Outcome
from testbed.scenarios import ScenarioFile, find, run_scenario
from testbed.scenarios.mutants import mutants_of

REVIEWS_RESTART = str(ROOT / "tests/mesh/reviews-restart.yaml")


@pytest.fixture(scope="module")
def mesh() -> Iterator[ScenarioMesh]:
    with ScenarioMesh.from_inventory((ROOT / "inventories/resilience.yaml").read_text()) as made:
        made.apply(shipped_resources("bookinfo"), limit=60)
        yield made


def in_short(name: str, seconds: float, *times: tuple[float, float], number: int = 0) -> ScenarioFile:
    """One step of a scenario with less traffic, and of its faults as many as ``times``: (at, for)."""
    [file] = find([name])
    step = file.scenario.each_step()[number]
    faults = [
        fault.model_copy(update={"at": at, "duration": None if fault.kind.momentary else lasts})
        for fault, (at, lasts) in zip(step.when.faults, times, strict=False)
    ]
    when = step.when.model_copy(update={"duration": seconds, "faults": faults})
    expect = step.expect.model_copy(update={"time_to_readmit": None})
    step = step.model_copy(update={"when": when, "expect": expect})
    return replace(file, scenario=file.scenario.model_copy(update={"when": None, "expect": None, "steps": [step]}))


@pytest.mark.parametrize(
    ("name", "seconds", "times"),
    [
        ("power-loss", 5.0, [(2.5, 1.5)]),
        ("zone-failover", 7.0, [(1.5, 5.0)]),
        ("gateway-lost", 7.0, [(2.0, 4.0)]),
        ("rolling-restart", 10.0, [(2.0, 0.0), (2.0, 0.0)]),
        (REVIEWS_RESTART, 8.0, [(2.0, 0.0), (5.0, 0.0)]),
    ],
    ids=["power-loss", "zone-failover", "gateway-lost", "rolling-restart", "reviews-restart"],
)
def test_machines_are_lost_and_no_caller_notices(mesh, name, seconds, times):
    record = run_scenario(in_short(name, seconds, *times), replace(mesh.lab, breaker=PowerCutter(mesh)))
    assert record.outcome is Outcome.PASS, record.verdict.reason


@pytest.mark.parametrize(
    ("name", "kind"),
    [("power-loss", "VirtualService"), ("zone-failover", "DestinationRule"), ("gateway-lost", "VirtualService")],
    ids=["power-loss", "zone-failover", "gateway-lost"],
)
def test_without_what_protects_from_it_the_loss_is_noticed(mesh, name, kind):
    file = in_short(name, 4.0, (2.5, 1.0))
    control = next(m for m in mutants_of(file, mesh.backend.applied()) if m.key.kind == kind)
    record = run_scenario(file, replace(mesh.lab, breaker=PowerCutter(mesh)), change=control.change)
    assert record.outcome is Outcome.FAIL, record.verdict.reason


def test_without_a_drain_a_restart_costs_what_was_under_way(mesh):
    file = in_short("rolling-restart", 4.0, (2.0, 0.0), number=1)
    record = run_scenario(file, replace(mesh.lab, breaker=PowerCutter(mesh)))
    assert record.outcome is Outcome.PASS, record.verdict.reason  # it expects losses
