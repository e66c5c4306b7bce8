"""`verify`: scenarios against a lab that is up, and the evidence that they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from testbed import scenarios
from testbed.errors import LabError
from testbed.faults.breaking import Breaker
from testbed.host.lock import hold
from testbed.host.scheduling import MachineThreads
from testbed.hypervisor.xml import domain_name
from testbed.lab.capture import capture
from testbed.lab.lab import API_FORWARD, Lab
from testbed.lab.observing import forwarded
from testbed.model.verdict import Outcome
from testbed.report.bundle import Bundle
from testbed.report.record import ScenarioRecord
from testbed.report.score import MutationScore
from testbed.report.score_page import score_files
from testbed.scenarios import LabUnderTest, ScenarioFile, find, run_scenario
from testbed.scenarios.mutants import run_mutants
from testbed.scenarios.running import check_all
from testbed.workflows.mesh import backend_of
from testbed.workflows.nodes import require_up
from testbed.workflows.releases import LabUpgrade
from testbed.workflows.versions import versions

Progress = Callable[[str], None]


def lab_under_test(lab: Lab) -> LabUnderTest:
    """The lab as scenarios meet it."""

    def gateway() -> tuple[str, int]:
        for name, port in forwarded(lab).items():
            if name != API_FORWARD:
                return "127.0.0.1", port
        raise LabError(lab.id, "send traffic from outside", "no gateway is forwarded", "run: testbed up")

    has_gateway = any(g.forward is not None for g in lab.inventory.gateways)
    return LabUnderTest(
        backend_of(lab, lasting=True),
        gateway if has_gateway else None,
        capture=lambda node: capture(lab, node, lab.directories.state),
        breaker=Breaker(lab, LabUpgrade(lab) if lab.has_cluster else None),
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

    With ``evidence`` a bundle grows in a new folder there, named after the time, and the verdicts lead to it: what
    interrupts the run leaves what was seen until then.
    """
    files = find(wanted)
    require_up(lab)
    under_test = lab_under_test(lab)
    check_all(files, under_test)
    records: list[ScenarioRecord] = []
    with hold(lab.directories, f"testbed verify -i {lab.file}"), recording(lab, under_test, evidence) as bundle:
        for file in files:
            record = run_scenario(file, under_test, progress=progress)
            records.append(bundle.add(record) if bundle else record)
            each(records[-1])
    return records


@contextmanager
def recording(lab: Lab, under_test: LabUnderTest, evidence: Path | None) -> Iterator[Bundle | None]:
    """A new bundle below ``evidence``, closed with the machines' consoles whatever happens; None: nowhere."""
    if evidence is None:
        yield None
        return
    folder = evidence / f"{lab.id}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    bundle = Bundle(folder, topology=lab.topology, versions=versions(lab, under_test))
    bundle.summarize()
    try:
        yield bundle
    finally:
        consoles = sorted(lab.directories.consoles.glob("*.log"))
        bundle.close({f"consoles/{file.name}": file.read_bytes() for file in consoles})


def check(
    lab: Lab,
    *,
    when: Mapping[str, Any],
    expect: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    name: str = "check",
    alpha: float | None = None,
    beta: float | None = None,
    evidence: Path | None = None,
) -> ScenarioRecord:
    """One scenario that is written as Python values; see :func:`testbed.scenarios.check`."""
    require_up(lab)
    under_test = lab_under_test(lab)
    with hold(lab.directories, f"check {name} -i {lab.file}"):
        record = scenarios.check(
            under_test, when=when, expect=expect, given=given, name=name, alpha=alpha, beta=beta
        )
        return kept(lab, under_test, record, evidence)


def kept(lab: Lab, under_test: LabUnderTest, record: ScenarioRecord, evidence: Path | None) -> ScenarioRecord:
    """The record, in a bundle of its own when there is a place for it."""
    with recording(lab, under_test, evidence) as bundle:
        return bundle.add(record) if bundle else record


def mutation_scores(
    lab: Lab,
    wanted: Sequence[str],
    *,
    progress: Progress = lambda _: None,
    each: Callable[[MutationScore], None] = lambda _: None,
    evidence: Path | None = None,
) -> list[MutationScore]:
    """Run scenarios against resources that were broken on purpose: each must notice each lie.

    With ``evidence`` a bundle grows after every mutant, so that what interrupts the run leaves the scores so far.
    A machine's trouble costs one scenario its score, unless the lab could not be put back: that ends the run.
    """
    files = find(wanted)
    require_up(lab)
    under_test = lab_under_test(lab)
    check_all(files, under_test)
    scores: list[MutationScore] = []
    place = recording(lab, under_test, evidence)
    with hold(lab.directories, f"testbed verify --mutants -i {lab.file}"), place as bundle:

        def tell(*so_far: MutationScore) -> None:
            if bundle:
                bundle.write(score_files([*scores, *so_far], bundle.topology))

        tell()
        for number, file in enumerate(files, 1):
            score = run_mutants(
                file,
                under_test,
                progress=lambda what, number=number: progress(f"{number} of {len(files)}: {what}"),  # type: ignore[misc]
                keep=partial(_noted, bundle),
                each=tell,
            )
            scores.append(score)
            tell()
            each(score)
            if score.left_behind:
                raise LabError(score.scenario.name, "put the lab back as it was", "see the log", "run: testbed up")
    return scores


def _noted(bundle: Bundle | None, record: ScenarioRecord) -> ScenarioRecord:
    """The record, written down; of what came out as it should, without the bulk that nobody will look at again."""
    record = bundle.keep(record) if bundle else record
    expected = Outcome.FAIL if record.mutant else Outcome.PASS
    return record.without_samples() if record.outcome is expected else record


def verify_scenario(lab: Lab, name: str) -> ScenarioRecord:
    """Run the one scenario that ``up`` proves."""
    [record] = verify(lab, [name])
    return record


def scenario_files(wanted: Sequence[str]) -> list[ScenarioFile]:
    """The scenarios that the words mean; none: all that are shipped, those that break machines last."""
    return find(wanted) if wanted else list({f.path: f for f in (*find([]), *find(["fault"]))}.values())
