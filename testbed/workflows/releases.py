"""Which releases a lab runs, and the way from these to those of its inventory, under somebody's traffic."""

from __future__ import annotations

from contextlib import closing

from testbed.artifacts import releases_of
from testbed.backends.istio.reaching import api_of
from testbed.lab.executor import execute
from testbed.lab.lab import Lab
from testbed.plan import Plan, plan_up
from testbed.plan.steps import BringReleases, InstallControlPlane, UpgradeNode
from testbed.resources import ResourceSet
from testbed.workflows.performing import Performer
from testbed.workflows.planning import look, machines_of, wanted


class LabUpgrade:
    """A lab brought to its inventory's releases while somebody else holds its lock, and sends traffic."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def pending(self) -> tuple[str, ...]:
        """The steps of the plan, were they done now, that are of releases."""
        plan, _ = self._plan()
        return tuple(
            s.name for s in plan if isinstance(s.action, BringReleases | UpgradeNode | InstallControlPlane)
        )

    def perform(self) -> str:
        """Do the whole plan; how long each step took, what each node of the cluster runs, and Istio's version."""
        plan, performer = self._plan()
        seconds = execute(plan, performer, lambda _: None)  # its steps are in the lab's log
        with closing(api_of(self._lab)) as api:
            nodes = api.every(api.path("v1", "Node"))
            runs = [f"{n['metadata']['name']} {n['status']['nodeInfo']['kubeletVersion']}" for n in nodes]
        took = ", ".join(f"{step} {lasted:.0f} s" for step, lasted in seconds.items())
        return f"{took}; {', '.join(sorted(runs))}; Istio {releases_of(self._lab.inventory).istio}"

    def _plan(self) -> tuple[Plan, Performer]:
        machines, nothing = machines_of(self._lab), ResourceSet()
        observed = look(self._lab, machines, nothing)
        return plan_up(wanted(self._lab, machines), observed), Performer(self._lab, machines, nothing)
