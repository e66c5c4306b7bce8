"""`verify --chaos`: a random schedule of faults as a scenario, replayed by its seed, shrunk when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from testbed.errors import bad_input
from testbed.faults.breaking import Breaker
from testbed.host.lock import hold
from testbed.lab.lab import Lab
from testbed.model.fault import Fault
from testbed.model.scenario import Scenario
from testbed.model.topology import ProxyKind
from testbed.model.verdict import Outcome
from testbed.plan.chaos import schedule, shrink
from testbed.report.record import ScenarioRecord
from testbed.scenarios import ScenarioFile, run_scenario
from testbed.workflows.nodes import require_up
from testbed.workflows.verify import keep, lab_under_test

RATE = 8.0
"""Requests a second."""
MOST_SHRINKING = 8
"""Runs that shrinking may take; each is as long as the first."""


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
            "description": f"Random faults for {length:g} s; replay: testbed verify --chaos --seed {seed}",
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


def chaos(
    lab: Lab,
    seed: int,
    length: float,
    *,
    evidence: Path | None = None,
    smaller: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> ScenarioRecord:
    """Run the seed's schedule; with ``smaller``, look for the part of one that fails which fails as well."""
    require_up(lab)
    under_test = lab_under_test(lab)
    whole = scenario_of(lab, seed, length)

    def run(faults: Sequence[Fault]) -> ScenarioRecord:
        scenario = scenario_of(lab, seed, length, faults)
        return run_scenario(ScenarioFile(Path(f"{scenario.name}.yaml"), scenario), under_test, progress=progress)

    with hold(lab.directories, f"testbed verify --chaos -i {lab.file}"):
        faults = whole.each_step()[0].when.faults
        records = [run(faults)]
        if smaller and records[0].outcome is Outcome.FAIL:

            def fails(some: Sequence[Fault]) -> bool:
                record = run(some)
                if record.outcome is Outcome.FAIL:
                    records.append(record)
                return record.outcome is Outcome.FAIL

            shrink(faults, fails, most=MOST_SHRINKING)
    return keep(lab, [records[-1]], evidence)[0]
