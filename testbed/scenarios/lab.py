"""The lab as a scenario meets it: a mesh, a way in from outside, and nodes that carry the agent."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from testbed.backends.contract import Backend
from testbed.backends.guest import Guest
from testbed.errors import LabError
from testbed.faults.breaking import Made
from testbed.model.fault import Fault
from testbed.model.topology import MeshWorkload, Topology
from testbed.scenarios.processors import Threads
from testbed.traffic import AGENT, HostConnection

PYCACHE = "/run/testbed-pycache"
PROXY = "1337"  # the one user whose packets the redirection leaves alone
Endpoint = tuple[str, int]


class Breaks(Protocol):
    """Who can break the lab's machines; :class:`~testbed.faults.breaking.Breaker` does it from below."""

    def unable(self, fault: Fault) -> str:
        """Why it can't make this fault here; empty when it can."""
        ...

    def breaking(
        self, fault: Fault, begun: Callable[[Made], None] = lambda _: None
    ) -> AbstractContextManager[Made]:
        """The fault holds inside the context and is undone after it.  ``begun`` is told of it before anything is
        broken: what comes of it counts, whatever goes wrong from there."""
        ...

    def settle(self, made: Iterable[Made]) -> None:
        """Take away what mended faults have left elsewhere, once nothing is measured any more."""
        ...


@dataclass(frozen=True)
class LabUnderTest:
    """What :func:`~testbed.scenarios.run_scenario` needs; the same for machines and for namespaces."""

    backend: Backend
    gateway: Callable[[], Endpoint] | None = None
    """The loopback address and port that lead to the gateway's HTTP port; None when nothing is forwarded."""
    agent: str = AGENT
    """The traffic agent's path on the nodes."""
    python: str = "python3"
    guest: Guest = field(default_factory=Guest)
    """Where things lie on the nodes."""
    capture: Callable[[str], AbstractContextManager[Path]] | None = None
    """Captures what crosses a node's mesh interface, as pcap, into the file that the context yields; the file is
    whole once the context is left, and to be removed by who asked for it."""
    breaker: Breaks | None = None
    """Breaks the lab's machines; None where there are none."""
    machines: bool = True
    """Whether each node is a machine of its own, whose load says something of it and of nobody else."""
    threads: Threads | None = None
    """Says how long the machines' threads have waited for a processor of this host; None where nobody can."""
    outside: HostConnection = field(default_factory=HostConnection)
    """Sends traffic from outside."""

    @property
    def topology(self) -> Topology:
        """The lab as the mesh sees it."""
        return self.backend.topology

    def inside(self, workload: str, *argv: str, stranger: bool = False) -> tuple[str, ...]:
        """A command in the workload's namespace; a ``stranger`` runs as the one user that is not redirected."""
        become = ("setpriv", "--reuid", PROXY, "--regid", PROXY, "--clear-groups") if stranger else ()
        return ("ip", "netns", "exec", self.guest.namespace_of(workload), *become, *argv)

    def namespace(self, workload: str) -> tuple[str, ...]:
        """Begins a command that only needs the workload's network, and not its names."""
        return ("nsenter", f"--net=/run/netns/{self.guest.namespace_of(workload)}")

    def agent_argv(self, *, packages: bool = False) -> tuple[str, ...]:
        """Starts the agent on a node.  Without ``packages`` Python skips looking for them: half of its start; as a
        module its compiled form is kept."""
        folder, name = os.path.split(self.agent)
        module = name.removesuffix(".py")
        start = f"import sys; sys.path.insert(0, {folder!r}); import {module}; sys.exit({module}.main())"
        return (self.python, "-I" if packages else "-IS", "-X", f"pycache_prefix={PYCACHE}", "-c", start)

    def caller(self, name: str) -> MeshWorkload:
        """The workload called ``name``, else the first one of the service ``name``."""
        for workload in self.topology.workloads:
            if workload.name == name:
                return workload
        found = self.of_service(name)
        if not found:
            raise LabError(name, "send traffic from it", "the lab has no such workload or service")
        return found[0]

    def node_of(self, workload: str) -> str:
        """The node that the workload is on now: a pod may be on another than its own."""
        return self.backend.connection(workload).node

    def by_node(self, workloads: Iterable[MeshWorkload]) -> dict[str, list[str]]:
        """Node -> the names of those that are on it now."""
        found: dict[str, list[str]] = {}
        for workload in workloads:
            found.setdefault(self.node_of(workload.name), []).append(workload.name)
        return found

    def of_service(self, name: str) -> tuple[MeshWorkload, ...]:
        """The workloads that carry the label ``app: name``, gateways left out."""
        return self.topology.of_service(name)

    def of_name(self, name: str) -> tuple[MeshWorkload, ...]:
        """The workload of that name, or all of the service of that name; a gateway by its name."""
        return self.topology.of_name(name)
