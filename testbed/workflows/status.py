"""`status`: machines, workloads, proxies, what is forwarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.backends.contract import ProxyState
from testbed.errors import LabError
from testbed.faults.breaking import Breaker
from testbed.host.lock import holder
from testbed.lab.disks import Disks
from testbed.lab.lab import Lab
from testbed.lab.observing import observe
from testbed.plan import ObservedLab
from testbed.workflows.homes import pods_away
from testbed.workflows.mesh import backend_of
from testbed.workflows.up import urls


@dataclass(frozen=True)
class LabStatus:
    """What is there of a lab."""

    lab: Lab
    observed: ObservedLab
    proxies: tuple[ProxyState, ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    """Workload -> the node that its pod is on, where that is not its own."""
    busy: str = ""
    """Who holds the lab's lock, if anybody."""

    @property
    def up(self) -> bool:
        """Whether any machine is there."""
        return bool(self.observed.machines)

    @property
    def healthy(self) -> bool:
        """Whether every machine answers and every proxy is in force."""
        wanted = {n.name for n in self.lab.inventory.nodes}
        answering = {n for n, m in self.observed.machines.items() if m.answers}
        return wanted <= answering and bool(self.proxies) and all(p.in_force for p in self.proxies)

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "lab": self.lab.id,
            "up": self.up,
            "healthy": self.healthy,
            "busy": self.busy,
            "nodes": {
                name: {"running": m.running, "paused": m.paused, "answers": m.answers}
                for name, m in self.observed.machines.items()
            },
            "proxies": {p.workload: {"in_force": p.in_force, "summary": p.summary} for p in self.proxies},
            "away": dict(self.away),
            "urls": dict(self.urls),
        }


def _proxies(lab: Lab) -> tuple[ProxyState, ...]:
    try:
        return backend_of(lab).states()
    except LabError:
        if lab.has_cluster:  # no API: nobody can be asked where proxies are
            return ()
        raise


def status(lab: Lab) -> LabStatus:
    """Look at the lab; takes no lock, and changes nothing but what a killed `fault` left behind."""
    Breaker(lab).recover()
    observed = observe(lab, Disks.of(lab.made_of))
    asked = any(m.answers for m in observed.machines.values())
    proxies = _proxies(lab) if asked else ()
    away = pods_away(lab) if asked else {}
    return LabStatus(lab, observed, proxies, urls(lab), away, str(holder(lab.directories) or ""))
