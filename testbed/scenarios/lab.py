"""The lab as a scenario meets it: a mesh, a way in from outside, and nodes that carry the agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.backends.contract import Backend
from testbed.errors import LabError
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.traffic import AGENT, HostConnection

Endpoint = tuple[str, int]


@dataclass(frozen=True)
class LabUnderTest:
    """What :func:`~testbed.scenarios.run_scenario` needs; the same for machines and for namespaces."""

    backend: Backend
    gateway: Callable[[], Endpoint] | None = None
    """The loopback address and port that lead to the gateway's HTTP port; None when nothing is forwarded."""
    agent: str = AGENT
    """The traffic agent's path on the nodes."""
    host: HostConnection = field(default_factory=HostConnection)
    access_log: str = "/var/log/testbed/{workload}/access.log"

    @property
    def topology(self) -> Topology:
        """The lab as the mesh sees it."""
        return self.backend.topology

    def caller(self, name: str) -> MeshWorkload:
        """The workload called ``name``, else the first one of the service ``name``."""
        for workload in self.topology.workloads:
            if workload.name == name:
                return workload
        found = self.of_service(name)
        if not found:
            raise LabError(name, "send traffic from it", "the lab has no such workload or service")
        return found[0]

    def of_service(self, name: str) -> tuple[MeshWorkload, ...]:
        """The workloads that carry the label ``app: name``, gateways left out."""
        return tuple(
            w for w in self.topology.workloads if w.labels.get("app") == name and w.kind is not ProxyKind.GATEWAY
        )

    def of_name(self, name: str) -> tuple[MeshWorkload, ...]:
        """The workload of that name, or all of the service of that name; a gateway by its name."""
        exact = tuple(w for w in self.topology.workloads if w.name == name)
        return exact or self.of_service(name)
