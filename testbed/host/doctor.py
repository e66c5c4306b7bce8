"""``testbed doctor``: what the host has and lacks for a lab, and the commands that mend it.

The findings are values; printing them is the command line's business.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from testbed.errors import HostNotReady
from testbed.host.directories import state_root
from testbed.host.finding import Finding, Level
from testbed.host.probes import capacity, daemon, disk_access, faults, kvm, leftovers, network, packages


@dataclass(frozen=True)
class Needs:
    """What a lab asks of its host.  ``memory`` and ``disk`` are in bytes, for all nodes together."""

    uri: str = "auto"
    memory: int = 0
    disk: int = 0
    networks: tuple[IPv4Network, ...] = ()
    own_interfaces: tuple[str, ...] = ()
    """The lab's bridges, if it is up on the system's daemon already."""
    backend: str = "standalone"
    """The mesh's, which says what faults there can be."""


@dataclass(frozen=True)
class Mended:
    """A command that ``--fix`` ran: its exit status and the end of what it wrote."""

    command: tuple[str, ...]
    status: int
    last_words: str


def examine(needs: Needs) -> list[Finding]:
    """Probe the host.  Takes about a second, and once per boot up to five more for KVM.  Changes nothing."""
    disks = state_root() / "labs"
    return [
        *packages.probe(),
        *daemon.probe(needs.uri),
        *kvm.probe(),
        *capacity.probe(needs.memory, needs.disk, disks),
        *network.probe(needs.uri, needs.networks, needs.own_interfaces),
        *disk_access.probe(needs.uri, disks),
        *faults.probe(needs.backend),
        *leftovers.probe(),
    ]


def require(findings: Sequence[Finding]) -> None:
    """Raise HostNotReady for the first finding without which a lab can't come up."""
    missing = [f for f in findings if f.level is Level.MISSING]
    if missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise HostNotReady(first.name, "check the host", first.detail + more, "run `testbed doctor --fix`")


def mends(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """The commands that ``--fix`` runs, in order.  All need root, and start with sudo for others."""
    wrong = [f for f in findings if f.level is not Level.OK]
    commands = [f.fix for f in wrong if f.fix]
    names = tuple(f.package for f in wrong if f.package)
    if names:
        install = ("apt-get", "install", "--yes", "--no-install-recommends", *names)
        commands = [("apt-get", "update"), install, *commands]
    sudo = () if os.geteuid() == 0 else ("sudo",)
    return [(*sudo, *command) for command in commands]


def fix(findings: Sequence[Finding], tell: Callable[[tuple[str, ...]], None] = lambda _: None) -> list[Mended]:
    """Run the mends, each after ``tell``; those after one that failed are left out.

    Raises HostNotReady before anything is run if root is needed and there is no sudo.
    """
    commands = mends(findings)
    if commands and os.geteuid() != 0 and shutil.which("sudo") is None:
        lines = "; ".join(" ".join(c[1:]) for c in commands)
        raise HostNotReady("host", "mend it", "this needs root, and there is no sudo", f"run as root: {lines}")
    done: list[Mended] = []
    for command in commands:
        tell(command)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        ran = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path("/"), check=False
        )
        words = ran.stdout.decode(errors="replace").strip().splitlines()
        done.append(Mended(command, ran.returncode, words[-1] if words else ""))
        if ran.returncode != 0:
            break
    return done
