"""The way that a request took from proxy to proxy, by their access logs, or could have taken; and what faults break
of it.  Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from testbed.model.fault import Fault, FaultKind
from testbed.model.topology import MeshWorkload, Topology
from testbed.plan.faults import workloads_of
from testbed.report.record import FaultSpan
from testbed.scenarios.evidence import AccessLogEntry
from testbed.traffic import Sample, TrafficSpec

LINKS = (FaultKind.LINK_DOWN, FaultKind.LINK_FLAP, FaultKind.SLOW_LINK)
"""What breaks a machine's link only: nothing that stays inside it."""


@dataclass(frozen=True)
class Hop:
    """One proxy calls another.  ``depth`` counts from 0, the caller of all."""

    caller: MeshWorkload
    callee: MeshWorkload
    depth: int


_Found = dict[tuple[str, str, int], Hop]


@dataclass(frozen=True)
class Ways:
    """What the access logs have of requests, and who calls whom at all."""

    topology: Topology
    callers: tuple[MeshWorkload, ...]
    """Whose proxy sends the requests: the caller's, or the gateways'."""
    called: tuple[MeshWorkload, ...]
    """The instances that may answer."""
    spec: TrafficSpec
    entries: Mapping[str, Sequence[AccessLogEntry]] = field(default_factory=dict)
    """Workload -> its proxy's entries of the lost requests."""
    calls: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """Workload -> names of the clusters that it has ever called."""

    def entry(self, sample: Sample) -> AccessLogEntry | None:
        """The caller's proxy's."""
        found = [e for c in self.callers for e in self._entries(c, sample) if not e.inbound]
        return found[-1] if found else None

    def of(self, sample: Sample, *, anywhere: bool = False) -> tuple[Hop, ...]:
        """Its hops.  ``anywhere``: an attempt before the last may have used up its time, and gone to any instance.

        From an instance whose proxy has an entry it went on as its entries say, else it may have gone on to
        whatever that instance ever calls.
        """
        hops: _Found = {}
        for caller in self.callers:
            own = [e for e in self._entries(caller, sample) if not e.inbound]
            callees = [c for e in own for c in self._callees(e, anywhere=anywhere)] if own else self.called
            for callee in callees:
                hops[caller.name, callee.name, 0] = Hop(caller, callee, 0)
                self._onward(callee, sample, 1, hops, {caller.name})
        return tuple(hops.values())

    def _entries(self, workload: MeshWorkload, sample: Sample) -> list[AccessLogEntry]:
        ids = {self.spec.request_id(sample.seq), sample.headers.get("x-request-id")}
        return [e for e in self.entries.get(workload.name, ()) if e["x_request_id"] in ids]

    def _onward(self, at: MeshWorkload, sample: Sample, depth: int, hops: _Found, seen: set[str]) -> None:
        if at.name in seen:
            return
        entries = self._entries(at, sample)
        outbound = [e["upstream_cluster"] for e in entries if not e.inbound]
        clusters = outbound if any(e.inbound for e in entries) else self.calls.get(at.name, ())
        for cluster in clusters:
            for callee in self._instances(cluster):
                if callee.name != at.name:
                    hops[at.name, callee.name, depth] = Hop(at, callee, depth)
                    self._onward(callee, sample, depth + 1, hops, {*seen, at.name})

    def _callees(self, entry: AccessLogEntry, *, anywhere: bool) -> tuple[MeshWorkload, ...]:
        """The instance of the last attempt where it is known and decides, else all that the cluster has."""
        host = entry["upstream_host"].rpartition(":")[0]
        exact = tuple(w for w in self.topology.workloads if str(w.address) == host)
        if exact and not (anywhere and entry["request_attempt_count"] not in ("", "0", "1")):
            return exact
        return self._instances(entry["upstream_cluster"]) or self.called

    def _instances(self, cluster: str) -> tuple[MeshWorkload, ...]:
        """Those of an outbound cluster, by Istio's name for it; of a subset that is called as a version is."""
        direction, _, rest = cluster.partition("|")
        if direction != "outbound":
            return ()
        _, _, rest = rest.partition("|")
        subset, _, host = rest.partition("|")
        service = host.partition(".")[0]
        found = workloads_of(service, self.topology)
        return tuple(w for w in found if w.version == subset) or found


def named(names: Iterable[str], topology: Topology) -> set[str]:
    """The workloads that are named, or run on a named node, or lie in a named zone."""
    found: set[str] = set()
    for name in names:
        hits = [w for w in topology.workloads if name in (w.node, w.locality.zone, str(w.locality))]
        found |= {w.name for w in hits or workloads_of(name, topology)}
    return found


def hit_by(span: FaultSpan, way: Iterable[Hop], topology: Topology) -> tuple[Hop, ...]:
    """The hops that the fault breaks."""
    fault = span.fault
    if fault is None:
        return ()
    if fault.kind is FaultKind.PARTITION:
        return tuple(h for h in way if _parted(fault, h, topology))
    if fault.kind.of_workload:
        broken = named(fault.target, topology)
        program = fault.kind in (FaultKind.SERVICE_KILL, FaultKind.SERVICE_HANG)
        return tuple(h for h in way if h.callee.name in broken or (h.caller.name in broken and not program))
    nodes = set(span.nodes)
    wired = fault.kind in LINKS
    return tuple(
        h for h in way if {h.caller.node, h.callee.node} & nodes and not (wired and h.caller.node == h.callee.node)
    )


def _parted(fault: Fault, hop: Hop, topology: Topology) -> bool:
    """Packets of the hop are lost in one direction: none gets through."""
    if hop.caller.node == hop.callee.node:
        return False
    ours, theirs = named(fault.target, topology), named(fault.peer or (), topology)
    there = hop.caller.name in ours and hop.callee.name in theirs
    back = hop.caller.name in theirs and hop.callee.name in ours
    if fault.port is None:
        return there or back
    return there and fault.port in {p.target for p in hop.callee.ports}
