"""`up`: plan, execute, prove."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from testbed import log
from testbed.errors import LabError
from testbed.faults.breaking import Breaker
from testbed.host.doctor import require
from testbed.host.lock import hold
from testbed.lab.halfopen import close_half_open
from testbed.lab.lab import API_FORWARD, Lab
from testbed.lab.machines import Machines
from testbed.lab.observing import forwarded
from testbed.lab.snapshots import Cloning, Damaged, Restoring, cache_store
from testbed.model.verdict import Outcome
from testbed.plan import Plan
from testbed.plan.steps import AwaitClone, CreateMachine, Stage, StartMachine
from testbed.report.record import ScenarioRecord
from testbed.resources import ResourceSet
from testbed.workflows.doctor import doctor
from testbed.workflows.mesh import default_resources, require_backend
from testbed.workflows.performing import Performer
from testbed.workflows.planning import machines_of
from testbed.workflows.showing import Show
from testbed.workflows.snapshot import has_snapshots, keep_verified, plan_with_cache, run
from testbed.workflows.verify import verify_scenario


@dataclass(frozen=True)
class UpReport:
    """What `up` did.  ``seconds`` is empty when there was nothing to do."""

    lab: Lab
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds."""
    stages: Mapping[str, float] = field(default_factory=dict)
    ended: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds from the start to its end."""
    planned: float = 0.0
    """Seconds that went by before the first step."""
    total: float = 0.0
    result: ScenarioRecord | None = None
    urls: Mapping[str, str] = field(default_factory=dict)
    """Gateway -> address on this host."""
    restored: str = ""
    """When the state was saved that the machines were restored from; empty when they were built."""
    not_kept: str = ""
    """Why the verified lab was not saved for the next `up`."""
    not_cloned: str = ""
    """Why machines were booted although there is a template for them."""

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
            "planned": round(self.planned, 2),
            "seconds": round(self.total, 2),
            "urls": dict(self.urls),
            "verdict": self.result.verdict.outcome.value if self.result else None,
            "restored": self.restored or None,
            "not_kept": self.not_kept or None,
            "not_cloned": self.not_cloned or None,
        }


def up(
    lab: Lab, show: Show, *, prove: bool = True, defaults: bool = True, cold: bool = False, clones: bool = True
) -> UpReport:
    """Bring the lab to what its inventory says; with ``prove``, judge its scenario once anything was done.

    Machines that are all to be made are restored from the cache when it has them, unless ``cold``.  A restored lab
    whose very resources were verified when it was saved has to answer along each edge, and is not judged again.
    A lab that was built and passed is saved to the cache.

    ``clones``: new machines start from templates, unless ``cold``; templates that are missing are made first.

    ``defaults``: put the inventory's resources on top of what is applied (`start` leaves these alone).
    """
    try:
        return _up(lab, show, prove=prove, defaults=defaults, cold=cold, clones=clones)
    except Damaged as e:  # found before any machine was touched
        cache_store(lab.id).delete(e.snapshot, in_use=True)
        return _up(lab, show, prove=prove, defaults=defaults, cold=cold, clones=clones)


def _up(lab: Lab, show: Show, *, prove: bool, defaults: bool, cold: bool, clones: bool) -> UpReport:
    begin = time.monotonic()
    require_backend(lab)
    resources = default_resources(lab) if defaults else ResourceSet()
    with hold(lab.directories, f"testbed up -i {lab.file}"):
        machines = machines_of(lab)
        breaker = Breaker(lab)
        breaker.clear()
        breaker.clear_strays()
        plan, cached, templates = plan_with_cache(
            lab, machines, resources, cold=cold or not defaults, clones=clones
        )
        if not plan:
            return UpReport(lab, urls=urls(lab))
        builds = any(isinstance(step.action, CreateMachine | AwaitClone) for step in plan)
        if builds:
            require(doctor(lab))
        lab.directories.create()
        log.configure(lab.directories.log)
        restoring = Restoring(machines, cached.snapshot) if cached else None
        cloning = Cloning(machines, templates.fitting)
        performer = Performer(lab, machines, resources, restoring, cloning, templates)
        with ExitStack() as reading:
            for snapshot in [cached.snapshot] if cached else templates.fitting.values():
                reading.enter_context(snapshot.used_now())
            seconds, timeline = run(plan, performer, show)
        close_half_open(lab, {s.action.node for s in plan if isinstance(s.action, StartMachine | AwaitClone)})
    result, not_kept = None, ""
    proven = cached is not None and cached.exact
    if prove and lab.inventory.mesh.scenario and not proven:
        timeline.mark(Stage.VERIFY)
        result = verify_scenario(lab, lab.inventory.mesh.scenario)
        timeline.mark(Stage.VERIFY)
    if (
        result
        and result.verdict.outcome is Outcome.PASS
        and has_snapshots(lab)
        and not lab.scale
        and (cached or _all_made(lab, plan))
    ):
        timeline.mark(Stage.KEEP)
        not_kept = _keep(lab, machines, resources, show)
        timeline.mark(Stage.KEEP)
    return UpReport(
        lab,
        seconds,
        timeline.stages(),
        timeline.ended,
        timeline.begin - begin,
        time.monotonic() - begin,
        result,
        urls(lab),
        restored=f"{cached.snapshot.manifest.saved:%Y-%m-%d %H:%M} UTC" if cached else "",
        not_kept=not_kept,
        not_cloned=next(iter(cloning.booted.values()), templates.why_not),
    )


def _all_made(lab: Lab, plan: Plan) -> bool:
    """Whether every machine is fresh: one with a history is no state that everybody gets from this inventory."""
    made = {step.action.node for step in plan if isinstance(step.action, CreateMachine | AwaitClone)}
    return made == {n.name for n in lab.inventory.nodes}


def _keep(lab: Lab, machines: Machines, resources: ResourceSet, show: Show) -> str:
    """Save the lab for the next `up`; why not, where that fails.  The lab is up all the same."""
    try:
        keep_verified(lab, machines, resources, show)
    except LabError as e:
        return str(e)
    return ""


def urls(lab: Lab) -> dict[str, str]:
    """Where each forwarded gateway is on this host."""
    return {
        gateway: f"http://127.0.0.1:{port}/" for gateway, port in forwarded(lab).items() if gateway != API_FORWARD
    }
