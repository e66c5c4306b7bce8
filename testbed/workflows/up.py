"""`up`: plan, execute, prove."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from testbed import log
from testbed.host.doctor import require
from testbed.host.lock import hold
from testbed.lab.executor import Watcher, execute
from testbed.lab.lab import Lab
from testbed.lab.observing import forwarded
from testbed.plan import Plan, plan_up
from testbed.plan.steps import CreateMachine, Stage
from testbed.report.record import ScenarioRecord
from testbed.resources import ResourceSet
from testbed.workflows.doctor import doctor
from testbed.workflows.mesh import default_resources, require_backend
from testbed.workflows.performing import Performer
from testbed.workflows.planning import look, machines_of, wanted
from testbed.workflows.timeline import Timeline
from testbed.workflows.verify import verify_scenario

Show = Callable[[Plan], AbstractContextManager[Watcher]]
"""Shows a plan's progress for the length of a block."""


@dataclass(frozen=True)
class UpReport:
    """What `up` did.  ``seconds`` is empty when there was nothing to do."""

    lab: Lab
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds."""
    stages: Mapping[str, float] = field(default_factory=dict)
    ended: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds from the start to its end."""
    total: float = 0.0
    result: ScenarioRecord | None = None
    urls: Mapping[str, str] = field(default_factory=dict)
    """Gateway -> address on this host."""

    @property
    def exit_code(self) -> int:
        """0, or the code of the verdict that was not a PASS."""
        return self.result.verdict.outcome.exit_code if self.result else 0

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "lab": self.lab.id,
            "steps": dict(self.seconds),
            "stages": dict(self.stages),
            "ended": dict(self.ended),
            "seconds": round(self.total, 2),
            "urls": dict(self.urls),
            "verdict": self.result.verdict.outcome.value if self.result else None,
        }


def up(lab: Lab, show: Show, *, prove: bool = True, defaults: bool = True) -> UpReport:
    """Bring the lab to what its inventory says; with ``prove``, judge its scenario once anything was done.

    ``defaults``: put the inventory's resources on top of what is applied (`start` leaves these alone).
    """
    begin = time.monotonic()
    require_backend(lab)
    resources = default_resources(lab) if defaults else ResourceSet()
    with hold(lab.directories, f"testbed up -i {lab.file}"):
        machines = machines_of(lab)
        plan = plan_up(wanted(lab, machines), look(lab, machines, resources))
        if not plan:
            return UpReport(lab, urls=urls(lab))
        if any(isinstance(step.action, CreateMachine) for step in plan):
            require(doctor(lab))
        lab.directories.create()
        log.configure(lab.directories.log)
        with show(plan) as watch:
            timeline = Timeline(watch)
            seconds = execute(plan, Performer(lab, machines, resources), timeline)
    result = None
    if prove and lab.inventory.mesh.scenario:
        timeline.mark(Stage.VERIFY)
        result = verify_scenario(lab, lab.inventory.mesh.scenario)
        timeline.mark(Stage.VERIFY)
    return UpReport(lab, seconds, timeline.stages(), timeline.ended, time.monotonic() - begin, result, urls(lab))


def urls(lab: Lab) -> dict[str, str]:
    """Where each forwarded gateway is on this host."""
    return {gateway: f"http://127.0.0.1:{port}/" for gateway, port in forwarded(lab).items()}
