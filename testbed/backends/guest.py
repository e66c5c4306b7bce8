"""Where things lie on a node, and the commands that are run there.  Machines use the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.compiler.layout import Layout
from testbed.guests.tool import TOOL


@dataclass(frozen=True)
class Guest:
    """Texts may hold ``{workload}``, which becomes the workload's name."""

    layout: Layout = field(default_factory=Layout)
    tool: tuple[str, ...] = TOOL
    namespace: str = "{workload}"
    """The network namespace of a workload."""
    hosts: str = "/etc/hosts"
    """The file that a workload's names resolve from."""
    resources: str = "/etc/testbed/resources"
    """Directory of a node (``{node}``) that keeps the resources in the mesh, to be read back from any of them."""
    standing: str = "/run/testbed-freeze.standing"
    """A file that is there from when a save stops the node's services until somebody lets them go on."""
    start: tuple[str, ...] = ("systemctl", "restart", "testbed-sidecar@{workload}")
    log: tuple[str, ...] = (
        "journalctl",
        "-u",
        "testbed-sidecar@{workload}",
        "-o",
        "cat",
        "-n",
        "2000",
        "--no-pager",
    )
    admin_port: int = 15000
    owner: int = 1337
    """User of the proxies (istio-proxy), whose traffic is not redirected."""
    owners: Mapping[str, int] = field(default_factory=dict)
    """Workload -> user, where proxies have users of their own."""

    durable: bool = True
    """Whether what was pushed has to survive a power loss (machines are killed on purpose)."""

    def command(self, argv: tuple[str, ...], workload: str) -> list[str]:
        """A command with the workload's name filled in."""
        return [a.replace("{workload}", workload) for a in argv]

    def owner_of(self, workload: str) -> int:
        """The user that the workload's proxy runs as."""
        return self.owners.get(workload, self.owner)

    def resources_of(self, node: str) -> str:
        """The directory that keeps the resources on a node."""
        return self.resources.replace("{node}", node)

    def namespace_of(self, workload: str) -> str:
        """The network namespace that the workload is in."""
        return self.namespace.replace("{workload}", workload)

    def hosts_of(self, workload: str) -> str:
        """The hosts file that the workload reads."""
        return self.hosts.replace("{workload}", workload)
