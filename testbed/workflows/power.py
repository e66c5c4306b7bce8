"""`stop` and `start`: the night of a lab."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from testbed.host.forward import stop_forward
from testbed.host.lock import hold
from testbed.hypervisor.machines import Power
from testbed.lab.lab import Lab, NotUp
from testbed.workflows.showing import Show
from testbed.workflows.up import UpReport, up

POWER_OFF_LIMIT = 40.0
"""Seconds for a guest to power off before its power is cut."""


def stop(lab: Lab) -> tuple[str, ...]:
    """Power all machines off, keeping disks and definitions.  Returns the nodes that were running."""
    with hold(lab.directories, f"testbed stop -i {lab.file}"):
        hypervisor = lab.hypervisor_if_up()
        if hypervisor is None:
            return ()
        running = [n for n, m in hypervisor.machines().items() if m.power is not Power.SHUTOFF]
        stop_forward(lab.directories)
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as pool:
            list(pool.map(lambda node: hypervisor.shut_down(node, POWER_OFF_LIMIT), running))
        if lab.private:
            lab.close()
            lab.daemon.stop(keep_definitions=True)
        return tuple(running)


def start(lab: Lab, show: Show) -> UpReport:
    """Power a stopped lab on, with the resources that it had; proves nothing."""
    if not lab.directories.state.exists() and lab.private:
        raise NotUp(lab.id, "start it", "there is no stopped lab")
    return up(lab, show, prove=False, defaults=False)
