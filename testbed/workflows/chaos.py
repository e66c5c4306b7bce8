"""`verify --chaos`: a random schedule of faults as a scenario, replayed by its seed, shrunk when it fails."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from testbed.errors import TestbedError, bad_input
from testbed.faults.breaking import Breaker
from testbed.faults.leftovers import leftovers
from testbed.host.lock import hold
from testbed.lab.lab import Lab
from testbed.log import get
from testbed.model.fault import Fault
from testbed.model.scenario import Scenario
from testbed.model.topology import ProxyKind
from testbed.model.verdict import Outcome, Verdict, all_of, failed, passed
from testbed.plan.chaos import schedule, shrink
from testbed.report.record import ScenarioRecord
from testbed.scenarios import ScenarioFile, run_scenario
from testbed.scenarios.following import Follower
from testbed.workflows.nodes import require_up
from testbed.workflows.verify import kept, lab_under_test

RATE = 8.0
"""Requests a second."""
MOST_SHRINKING = 8
"""Runs that shrinking may take; each is as long as the first."""


@dataclass(frozen=True)
class ChaosReport:
    """What became of a schedule."""

    record: ScenarioRecord
    replay: str
    """The command that makes the same schedule again."""
    left_behind: tuple[str, ...]
    """What was not as before once all was undone."""
    smaller: tuple[Fault, ...] = ()
    """The part of the schedule that fails as well, where one was looked for."""


def scenario_of(lab: Lab, seed: int, length: float, faults: Sequence[Fault] | None = None) -> Scenario:
    """The scenario of a seed, in the form of a file; ``faults``: a smaller schedule in place of the seed's."""
    topology = lab.topology
    callers = [w for w in topology.workloads if w.kind is not ProxyKind.GATEWAY and not w.ports]
    callers = callers or [w for w in topology.workloads if w.kind is not ProxyKind.GATEWAY]
    called = max(
        (s for s in topology.services if s.name != callers[0].service),
        key=lambda s: sum(w.service == s.name and w.node != callers[0].node for w in topology.workloads),
    )
    if faults is None:
        spared = {callers[0].node, *(w.node for w in topology.workloads if w.kind is ProxyKind.GATEWAY)}
        try:
            faults = schedule(seed, length, Breaker(lab).machines, topology, spared=tuple(spared))
        except ValueError as e:
            raise bad_input("chaos", str(e), "give it more time: --for 3m") from None
    path = {"reviews": "/reviews/0", "ratings": "/ratings/0", "details": "/details/0"}.get(called.name, "/")
    plain = [f.model_dump(mode="json", by_alias=True, exclude_none=True) for f in faults]
    return Scenario.model_validate(
        {
            "name": f"chaos-{seed}",
            "description": f"Random faults for {length:g} s; replay: {replay(lab, seed, length)}",
            "promise": "Whatever breaks, every answer is right, every loss has a cause, and strangers stay out.",
            "tags": ["fault", "chaos"],
            "when": {
                "from": callers[0].name,
                "service": called.name,
                "path": path,
                "rate": RATE,
                "for": f"{length:g}s",
                "timeout": "5s",
                "faults": plain,
            },
            "expect": {"invariants": {}},
        }
    )


def replay(lab: Lab, seed: int, length: float) -> str:
    """The command that makes the same schedule again."""
    return f"testbed verify --chaos --seed {seed} --for {length:g}s -i {shlex.quote(str(lab.file))}"


def chaos(
    lab: Lab,
    seed: int,
    length: float,
    *,
    evidence: Path | None = None,
    smaller: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> ChaosReport:
    """Run the seed's schedule; with ``smaller``, look for the part of one that fails which fails as well.

    While it runs, ``progress`` is told what it has come to so far, and a file of JSON lines beside the bundles has
    each request and fault, so that a run that is killed leaves them; it goes when the bundle is written.
    """
    require_up(lab)
    under_test = lab_under_test(lab)
    whole = scenario_of(lab, seed, length)
    journal = evidence / f"{lab.id}-chaos-{seed}-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl" if evidence else None

    def run(faults: Sequence[Fault], file: Path | None = None) -> tuple[ScenarioRecord, tuple[str, ...]]:
        scenario = scenario_of(lab, seed, length, faults)
        follower = Follower(file, progress)
        try:
            found = ScenarioFile(Path(f"{scenario.name}.yaml"), scenario)
            record = run_scenario(found, under_test, progress=progress, follower=follower)
        finally:
            follower.close()
        left = leftovers(lab)
        return replace(record, verdict=with_leftovers(record.verdict, left)), left

    with hold(lab.directories, f"testbed verify --chaos -i {lab.file}"):
        faults = whole.each_step()[0].when.faults
        runs = [run(faults, journal)]
        least: tuple[Fault, ...] = ()
        if smaller and runs[0][0].outcome is Outcome.FAIL:

            def fails(some: Sequence[Fault]) -> bool:
                _bring_back(lab)
                result = run(some)
                if result[0].outcome is Outcome.FAIL:
                    runs.append(result)
                return result[0].outcome is Outcome.FAIL

            least = shrink(faults, fails, most=MOST_SHRINKING)
        if runs[-1][1]:
            _bring_back(lab)
    record = kept(lab, under_test, runs[-1][0], evidence)
    if journal is not None:
        journal.unlink(missing_ok=True)
    return ChaosReport(record, replay(lab, seed, length), runs[-1][1], least)


def with_leftovers(verdict: Verdict, left: Sequence[str]) -> Verdict:
    """The verdict on the mesh, and that nothing of the faults is left."""
    if not left and verdict.outcome is Outcome.NOT_APPLICABLE:
        return verdict
    if not left:
        clean = passed("nothing was left behind")
    else:
        clean = failed(f"left behind: {'; '.join(left[:3])}" + (f" and {len(left) - 3} more" if left[3:] else ""))
    return replace(all_of([("invariants", verdict), ("left behind", clean)]), numbers=verdict.numbers)


def _bring_back(lab: Lab) -> None:
    try:
        Breaker(lab).clear()
    except TestbedError as e:  # what is left has been said already
        get("chaos").error("faults that could not be undone", error=str(e))
