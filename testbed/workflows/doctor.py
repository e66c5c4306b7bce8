"""`doctor`: what the host has and lacks for a lab."""

from __future__ import annotations

from collections.abc import Callable

from testbed.host.doctor import Mended, Needs, examine, fix
from testbed.host.finding import Finding
from testbed.lab.lab import Lab


def needs_of(lab: Lab) -> Needs:
    """What the inventory asks of its host."""
    inventory = lab.inventory
    return Needs(
        uri=lab.uri,
        memory=sum(n.memory for n in inventory.nodes),
        disk=sum(n.disk for n in inventory.nodes) // 8,  # overlays: what is written, not what could be
        networks=(inventory.networks.management, inventory.networks.mesh),
        own_interfaces=tuple(f"tb{lab.tag}{role}" for role in ("ma", "me")),
        backend=inventory.mesh.backend,
    )


def doctor(lab: Lab) -> list[Finding]:
    """Probe the host for this lab.  Changes nothing."""
    return examine(needs_of(lab))


def mend(findings: list[Finding], tell: Callable[[tuple[str, ...]], None]) -> list[Mended]:
    """Run the commands that mend what was found."""
    return fix(findings, tell)
