"""The way that a request took from proxy to proxy, by their access logs, or could have taken; and what faults break
of it.  Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

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
    """One proxy calls another.  ``depth`` counts from 0, the caller of all, by the shortest way."""

    caller: MeshWorkload
    callee: MeshWorkload
    depth: int


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
        hops: dict[tuple[str, str], Hop] = {}
        for caller in self.callers:
            own = [e for e in self._entries(caller, sample) if not e.inbound]
            callees = [c for e in own for c in self._callees(e, anywhere=anywhere)] if own else self.called
            seen = {caller.name}
            reached, depth = [Hop(caller, callee, 0) for callee in callees], 0
            while reached:  # each place once: what calls each other makes more ways than can be walked
                for hop in reached:
                    hops.setdefault((hop.caller.name, hop.callee.name), hop)
                new = {h.callee.name: h.callee for h in reached if h.callee.name not in seen}
                seen.update(new)
                depth += 1
                reached = [Hop(at, callee, depth) for at in new.values() for callee in self._onward(at, sample)]
        return tuple(hops.values())

    @cached_property
    def _by_id(self) -> Mapping[str, Mapping[str, Sequence[AccessLogEntry]]]:
        """Workload -> request id -> entries."""
        found: dict[str, dict[str, list[AccessLogEntry]]] = {}
        for workload, entries in self.entries.items():
            ids = found.setdefault(workload, {})
            for entry in entries:
                ids.setdefault(entry["x_request_id"], []).append(entry)
        return found

    def _entries(self, workload: MeshWorkload, sample: Sample) -> list[AccessLogEntry]:
        ids = dict.fromkeys((self.spec.request_id(sample.seq), sample.headers.get("x-request-id")))
        known = self._by_id.get(workload.name, {})
        return [e for i in ids if i for e in known.get(i, ())]

    def _onward(self, at: MeshWorkload, sample: Sample) -> list[MeshWorkload]:
        """Whom the workload called for this request, or calls at all."""
        entries = self._entries(at, sample)
        outbound = [e["upstream_cluster"] for e in entries if not e.inbound]
        clusters = outbound if any(e.inbound for e in entries) else self.calls.get(at.name, ())
        return [c for cluster in clusters for c in self._instances(cluster) if c.name != at.name]

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
