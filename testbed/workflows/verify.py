"""`verify`: scenarios against a lab that is up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from testbed.errors import LabError
from testbed.host.lock import hold
from testbed.lab.lab import Lab
from testbed.lab.observing import forwarded
from testbed.report.record import ScenarioRecord
from testbed.scenarios import LabUnderTest, ScenarioFile, find, run_scenario
from testbed.workflows.mesh import backend_of
from testbed.workflows.nodes import require_up

Progress = Callable[[str], None]


def lab_under_test(lab: Lab) -> LabUnderTest:
    """The lab as scenarios meet it."""

    def gateway() -> tuple[str, int]:
        for port in forwarded(lab).values():
            return "127.0.0.1", port
        raise LabError(lab.id, "send traffic from outside", "no gateway is forwarded", "run: testbed up")

    has_gateway = any(g.forward is not None for g in lab.inventory.gateways)
    return LabUnderTest(backend_of(lab), gateway if has_gateway else None)


def verify(
    lab: Lab, wanted: Sequence[str], *, progress: Progress = lambda _: None, each: Callable[[ScenarioRecord], None]
) -> list[ScenarioRecord]:
    """Run scenarios one after another; ``each`` is told of every one as it ends."""
    files = find(wanted)
    require_up(lab)
    under_test = lab_under_test(lab)
    records = []
    with hold(lab.directories, f"testbed verify -i {lab.file}"):
        for file in files:
            record = run_scenario(file, under_test, progress=progress)
            each(record)
            records.append(record)
    return records


def verify_scenario(lab: Lab, name: str) -> ScenarioRecord:
    """Run the one scenario that ``up`` proves."""
    [record] = verify(lab, [name], each=lambda _: None)
    return record


def scenario_files(wanted: Sequence[str]) -> list[ScenarioFile]:
    """The scenarios that the words mean; none: all that are shipped."""
    return find(wanted)
