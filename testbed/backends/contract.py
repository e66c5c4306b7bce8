"""What a mesh backend can do: the same verbs for Envoys that we configure and for Istio.

A *revision* is a content hash of what one proxy must have; the lab's is the hash of those.  It is *in force*
when every proxy concerned answers with it, its clusters are warm, and the callers' pooled connections have
been renewed (a proxy keeps old connections on the old listener until that is drained).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address
from typing import Protocol

from testbed.guests import NodeConnection
from testbed.model.topology import Topology
from testbed.resources import ResourceSet


@dataclass(frozen=True)
class ProxyState:
    """What one proxy answers, next to what it was given."""

    workload: str
    revision_wanted: str
    """The revision of the files on its node; empty when it was never given any."""
    in_force: bool
    """Nothing behind, warming, draining or rejected, and the proxy is live."""
    behind: tuple[str, ...] = ()
    """Files whose version Envoy does not answer yet."""
    warming: tuple[str, ...] = ()
    """Clusters and listeners that wait for something: ``cluster NAME``, ``listener NAME``."""
    draining: int = 0
    """Old listeners and filter chains that still hold connections."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """File or resource -> Envoy's reason, of what it refused since the last push that it took."""
    server: str = ""
    """Envoy's server state (``LIVE``, ``INITIALIZING``, ...); empty when its admin port does not answer."""

    @property
    def summary(self) -> str:
        """One line: why it is not in force, or that it is."""
        if self.in_force:
            return f"{self.workload}: in force"
        reasons = [f"{what}: rejected: {why}" for what, why in self.rejected.items()]
        if not self.server:
            reasons.append("its admin port does not answer")
        elif self.server != "LIVE":
            reasons.append(self.server.lower())
        if self.behind:
            reasons.append("behind on " + ", ".join(self.behind))
        if self.warming:
            reasons.append("warming " + ", ".join(self.warming))
        if self.draining:
            reasons.append(f"draining {self.draining}")
        return f"{self.workload}: " + ("; ".join(reasons) or "has no configuration")


@dataclass(frozen=True)
class Applied:
    """A push that is in force.  The three times follow each other; their sum is what ``apply`` took, in seconds,
    but for compiling."""

    revision: str
    changed: Mapping[str, tuple[str, ...]]
    """Workload -> paths (with Istio: resources) that were written or removed; workloads with none are left out."""
    push_seconds: float = 0.0
    """Until every node had taken the files and its proxies had answered for them."""
    in_force_seconds: float = 0.0
    """Until every proxy of the mesh answered with its revision."""
    drain_seconds: float = 0.0
    """Until the last old listener had let go of its callers' connections."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Workload -> the revision that its proxy answers with."""
    was_in_force: bool = False
    """Whether all of it was in force before, so that no node was told anything."""


@dataclass(frozen=True)
class MeshDiff:
    """What ``apply`` would write, and what it would take away."""

    revision_from: str
    revision_to: str
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Workload -> paths that would be written or removed."""
    resources: tuple[str, ...] = ()
    """A unified diff of the resources, line by line."""

    @property
    def is_empty(self) -> bool:
        """Whether ``apply`` would change nothing."""
        return not self.changed and not self.resources


class Backend(Protocol):
    """A mesh on the nodes of a lab."""

    @property
    def topology(self) -> Topology:
        """The lab as the mesh sees it."""
        ...

    def diff(self, wanted: ResourceSet) -> MeshDiff:
        """What :meth:`apply` would change.  Changes nothing."""
        ...

    def apply(self, wanted: ResourceSet, *, limit: float = 60) -> Applied:
        """Make ``wanted`` the mesh's whole configuration and return when it is in force.

        ``limit`` is in seconds.  Raises :class:`~testbed.errors.MeshError` naming the proxy that rejected it or
        the one that lags behind.  What a proxy rejects it never serves: the mesh keeps its last good revision.
        """
        ...

    def change(self, edit: Callable[[ResourceSet], ResourceSet], *, limit: float = 60) -> Applied:
        """:meth:`apply` what ``edit`` makes of the resources in the mesh: one look at the nodes instead of two."""
        ...

    def holds(self, resources: ResourceSet) -> bool:
        """Whether ``resources``, put on top of what is applied, would change nothing and everything is in force.

        One look at each node: what a second ``up`` asks.  False when a node can't be asked.
        """
        ...

    def states(self) -> tuple[ProxyState, ...]:
        """Every proxy's state, by workload name, read from the proxies themselves."""
        ...

    def applied(self) -> ResourceSet:
        """The resources in the mesh, read back from its nodes (nothing is kept on this host)."""
        ...

    def admin(self, workload: str, path: str) -> bytes:
        """The body of ``GET path`` on the proxy's admin port, which only its own namespace can reach."""
        ...

    def log(self, workload: str, since: datetime | None = None) -> str:
        """The proxy's own log (not its access log), from ``since`` on."""
        ...

    def connection(self, workload: str) -> NodeConnection:
        """The connection to the node that ``workload`` is on."""
        ...

    def reached_at(self, workload: str) -> IPv4Address:
        """The address of ``workload`` itself, at which a stranger calls it past everything: of a pod the pod's."""
        ...

    def wire_addresses(self, workload: str) -> frozenset[IPv4Address]:
        """What packets between machines have as the address of ``workload``: a pod has one of its own, and its
        node's where it calls somebody outside the cluster."""
        ...

    def not_applicable(self, feature: str) -> str | None:
        """Why this backend can't do ``feature``, or None when it can."""
        ...
