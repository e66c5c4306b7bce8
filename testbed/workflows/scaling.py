"""`scale`: another number of instances of a workload, until it is set back or the lab is reset."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from testbed.errors import bad_input
from testbed.host.lock import hold
from testbed.hypervisor.scaling import keep_scale
from testbed.lab.lab import Lab
from testbed.model.reading import instance_name, require_scale
from testbed.plan import plan_scale
from testbed.resources import ResourceSet
from testbed.workflows.nodes import require_up
from testbed.workflows.performing import Performer
from testbed.workflows.planning import machines_of, wanted
from testbed.workflows.showing import Show
from testbed.workflows.snapshot import run
from testbed.workflows.workloads import workloads_digest

_AT_ONCE = 0.09
"""Seconds in which nobody has waited for a lock, which is tried every tenth of a second."""


@dataclass(frozen=True)
class Scaled:
    """A workload with another number of instances than the inventory says."""

    workload: str
    replicas: int
    declared: int

    def __str__(self) -> str:
        return f"{self.workload}: {self.replicas} instances, {self.declared} in the inventory"


def scaled(lab: Lab) -> tuple[Scaled, ...]:
    """What is scaled in the lab."""
    declared = _declared(lab)
    return tuple(Scaled(name, n, declared[name]) for name, n in sorted(lab.scale.items()))


def _declared(lab: Lab) -> dict[str, int]:
    return {instance_name(w, 0): w.replicas for w in lab.inventory.workloads}


@dataclass(frozen=True)
class ScaleReport:
    """What `scale` did.  Times in seconds."""

    workload: str
    before: int
    replicas: int
    seconds: Mapping[str, float]
    """Step -> seconds."""
    ended: Mapping[str, float]
    """Step -> seconds from the first one's start to its end."""
    total: float

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "workload": self.workload,
            "before": self.before,
            "replicas": self.replicas,
            "steps": dict(self.seconds),
            "ended": dict(self.ended),
            "seconds": round(self.total, 2),
        }


@contextmanager
def _held(lab: Lab) -> Iterator[None]:
    """Hold the lab's lock.  Nodes were met before: whoever had it until now may have put others in their place."""
    begin = time.monotonic()
    with hold(lab.directories, f"testbed scale -i {lab.file}"):
        if time.monotonic() - begin > _AT_ONCE:
            lab.forget_connections()
        yield


def scale(lab: Lab, workload: str, replicas: int | None, show: Show) -> ScaleReport:
    """Have ``replicas`` instances of ``workload`` (None: as the inventory says); returns when that is in force.

    The number is written into the machines' metadata before anything is done: who is killed half-way leaves a lab
    that `up` brings to it.  Raises BadInput for a name or a number that can't be.
    """
    begin = time.monotonic()
    if lab.has_cluster:
        raise bad_input(
            lab.file, "no `scale` of labs with a cluster yet", "change `replicas` in the inventory, then testbed up"
        )
    declared = _declared(lab)
    number = declared.get(workload, 0) if replicas is None else replicas
    require_scale(lab.inventory, workload, number, lab.file)
    require_up(lab)
    with _held(lab):
        before = lab.scale.get(workload, declared[workload])
        had = {node.name: workloads_digest(lab, node.name) for node in lab.inventory.nodes}
        lab.hold_to({**lab.scale, workload: number})
        keep_scale(lab.hypervisor(), lab.scale, time.time())
        machines = machines_of(lab)
        plan = plan_scale(wanted(lab, machines), had, fewer=number < before)
        seconds, timeline = run(plan, Performer(lab, machines, ResourceSet(), at_once=True), show)
    return ScaleReport(workload, before, number, seconds, timeline.ended, time.monotonic() - begin)
