"""`down`: whatever is there of a lab goes, whether or not an `up` ever ended."""

from __future__ import annotations

from testbed.faults.network import forget_all
from testbed.host.lock import hold
from testbed.lab.executor import execute
from testbed.lab.lab import Lab
from testbed.lab.machines import Machines
from testbed.lab.observing import observe_remains
from testbed.plan import plan_down
from testbed.resources import ResourceSet
from testbed.workflows.cloning import clear_interrupted
from testbed.workflows.performing import Performer
from testbed.workflows.showing import Show


def down(lab: Lab, show: Show) -> bool:
    """Remove the lab.  Returns whether there was anything."""
    clear_interrupted()
    with hold(lab.directories, f"testbed down -i {lab.file}"):
        observed = observe_remains(lab)
        if (
            not observed.hypervisor
            and not observed.machines
            and not observed.forwards
            and not lab.directories.state.exists()
        ):
            return False
        if observed.machines and not lab.private:  # else the rules go with the lab's network namespace
            forget_all(lab)
        plan = plan_down(observed)
        with show(plan) as watch:
            execute(plan, Performer(lab, Machines(lab, kvm=False), ResourceSet()), watch)
    return True
