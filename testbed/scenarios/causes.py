"""Which faults explain a lost request: those that could have hurt it, at its time, on its way, in that manner.

Values in, values out.  A fault explains a loss when all three hold: the request was under way while the fault or
the recovery that the configuration promises lasted (:class:`Promises`); the fault broke something on the way that
the request took, by the access logs, or could have taken where these have no entry (:mod:`.ways`); and what became
of the request, by Envoy's response flags, is what such a fault does (:data:`FITS`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from testbed.compiler.trafficpolicy import CONNECT_TIMEOUT
from testbed.model.fault import FaultKind
from testbed.report.record import FaultSpan, Loss, Mark
from testbed.resources import ResourceSet
from testbed.scenarios.evidence import AccessLogEntry
from testbed.scenarios.processors import Processors
from testbed.scenarios.shares import described
from testbed.scenarios.ways import LINKS, Hop, Ways, hit_by, named
from testbed.traffic import Sample

RTO = 1.0
"""Seconds after which TCP first repeats what was not acknowledged (RFC 6298, 2.1)."""
Kept = Counter[tuple[FaultSpan, str]]
"""Fault and instance -> how many losses were put down to connections kept from before it."""
LONGEST_RTO = 120.0
"""Seconds that TCP waits between two repetitions at most (TCP_RTO_MAX of Linux)."""
SLOT = 10.0
"""Seconds by which faults are looked up: an hour of losses is not held against an hour of faults one by one."""


@dataclass(frozen=True)
class Promises:
    """How long a fault may be felt once its machines are well, in seconds, by the called host's configuration."""

    connect: float = CONNECT_TIMEOUT
    """``connectTimeout``; Istio's default.  Who waits for a connection that was begun before fails with it."""
    kept: float = 3600.0
    """``idleTimeout`` of kept connections; Envoy's default.  So long a pool may hold one to a machine that has
    forgotten it."""


def promises_of(resources: ResourceSet, service: str) -> Promises:
    """The longest that any policy for the service has, whichever subset or port it is for."""
    rules = [r.spec for r in resources.destination_rules if r.spec.host.partition(".")[0] == service]
    policies = [p for r in rules for p in (r.traffic_policy, *(s.traffic_policy for s in r.subsets)) if p]
    pools = [p.connection_pool for p in policies]
    pools += [q.connection_pool for p in policies for q in p.port_level_settings]
    connects = [p.tcp.connect_timeout for p in pools if p and p.tcp and p.tcp.connect_timeout]
    idles = [p.http.idle_timeout for p in pools if p and p.http and p.http.idle_timeout]
    return Promises(max(connects, default=Promises.connect), max(idles, default=Promises.kept))


NO_PROCESSOR = "no processor for"
"""How a doubt begins that is about the host, and not about a fault."""


class Manner(StrEnum):
    """What became of a request that was lost."""

    HUNG = "no answer in time"
    REFUSED = "no connection"
    UNREACHED = "no connection, or TLS failed"
    CUT = "the connection broke"
    UNTRUSTED = "TLS failed"
    NONE_LEFT = "no healthy instance"
    FULL = "the pool is full"
    ANSWERED = "an error from further on"
    LOCAL = "the caller did not reach its own proxy"
    OTHER = "something else"


_BY_FLAG = {
    "UH": Manner.NONE_LEFT,
    "UO": Manner.FULL,
    "UF": Manner.REFUSED,
    "UC": Manner.CUT,
    "UR": Manner.CUT,
    "LR": Manner.CUT,
    "UT": Manner.HUNG,
    "SI": Manner.HUNG,
    "UMSDR": Manner.HUNG,
    "DC": Manner.HUNG,
}
"""Envoy's %RESPONSE_FLAGS%, of which the first that is here counts (DC: the caller gave up)."""
_BY_BODY = {
    "no healthy upstream": Manner.NONE_LEFT,
    "reset reason: overflow": Manner.FULL,
    "upstream request timeout": Manner.HUNG,
    "reset reason: connection termination": Manner.CUT,
    "reset reason: remote reset": Manner.CUT,
    "reset reason: remote connection failure": Manner.UNREACHED,
    "reset reason: connection failure": Manner.UNREACHED,
    "reset reason: connection timeout": Manner.REFUSED,
    "connection timeout": Manner.REFUSED,
}
"""How Envoy's own answers begin or end, where there is no entry of the access log.  Since 1.39 they do not say why
there was no connection (``hide_transport_failure_reason_in_response_body``)."""
_NO_ANSWER = "no answer within"
"""How the caller's own error begins when it gave up."""

_SILENT = frozenset({Manner.HUNG, Manner.REFUSED, Manner.UNREACHED, Manner.NONE_LEFT, Manner.FULL})
_NOT_CONNECTED = frozenset({Manner.REFUSED, Manner.UNREACHED, Manner.UNTRUSTED})
_FORGETFUL = _SILENT | {Manner.CUT, Manner.ANSWERED}
_KILLED = frozenset({Manner.REFUSED, Manner.UNREACHED, Manner.CUT, Manner.NONE_LEFT, Manner.HUNG})
# in TLS 1.3 the caller holds its handshake for done when the other end looks at its certificate: that end's refusal
# comes in place of an answer (RFC 8446, 4.4.2.4 and appendix E.1)
_DISTRUSTED = frozenset({Manner.UNTRUSTED, Manner.UNREACHED, Manner.NONE_LEFT, Manner.CUT})

FITS: Mapping[FaultKind, frozenset[Manner]] = {
    **dict.fromkeys((FaultKind.FREEZE, FaultKind.LINK_DOWN, FaultKind.LINK_FLAP, FaultKind.PARTITION), _SILENT),
    **dict.fromkeys((FaultKind.SLOW_LINK, FaultKind.DISK_STALL, FaultKind.DISK_SLOW, FaultKind.CPU), _SILENT),
    # a machine that boots has its sidecar before its program, which then answers for it
    **dict.fromkeys((FaultKind.POWER_OFF, FaultKind.RESET, FaultKind.CRASH, FaultKind.RESTART), _FORGETFUL),
    FaultKind.MEMORY: _FORGETFUL,
    FaultKind.DISK_ERRORS: _FORGETFUL,
    FaultKind.DISK_FULL: frozenset({Manner.CUT, Manner.ANSWERED}),
    **dict.fromkeys((FaultKind.CLOCK, FaultKind.CLOCK_DRIFT), _DISTRUSTED),
    **dict.fromkeys((FaultKind.CERTIFICATE_EXPIRED, FaultKind.CERTIFICATE_FOREIGN), _DISTRUSTED),
    FaultKind.CERTIFICATE_ROTATED: frozenset(),
    # proxies go on with what they have
    FaultKind.CONTROL_PLANE_KILL: frozenset(),
    FaultKind.UPGRADE: frozenset(),
    # a proxy that starts accepts before it has time to answer
    FaultKind.SIDECAR_KILL: _KILLED,
    FaultKind.SIDECAR_RESTART: _KILLED,
    FaultKind.SIDECAR_HANG: _SILENT,
    # the sidecar stands in for its program: it answers 503, or waits as its callers do
    FaultKind.SERVICE_KILL: frozenset({Manner.ANSWERED, Manner.CUT, Manner.NONE_LEFT}),
    FaultKind.SERVICE_HANG: frozenset({Manner.HUNG, Manner.ANSWERED, Manner.NONE_LEFT, Manner.FULL}),
}
"""What callers of what was broken may see."""

_LOSES_PACKETS = frozenset({*LINKS, FaultKind.PARTITION, FaultKind.FREEZE, FaultKind.RESTART})
_SEEN_FROM_AFAR = frozenset({Manner.HUNG, Manner.ANSWERED})
"""What a caller sees of what is broken beyond the instance that it calls: this waits, or answers with an error."""


def manner_of(sample: Sample, entry: AccessLogEntry | None) -> Manner:
    """By the caller's proxy's access log, else by what the caller itself saw."""
    reason = f"{entry['upstream_transport_failure_reason'] if entry else ''} {sample.body}"
    # by the error's own name: a plain reset while TLS begins is called a TLS error as well
    if "CERTIFICATE" in reason or "_ALERT_" in reason:
        return Manner.UNTRUSTED
    if entry is not None:
        flags = entry["response_flags"].split(",")
        found = next((_BY_FLAG[f] for f in flags if f in _BY_FLAG), None)
        if found is not None:
            return found
        if sample.error.startswith(_NO_ANSWER):  # the proxy has one, which came when the caller was giving up
            return Manner.HUNG
        return Manner.ANSWERED if entry["response_code_details"] == "via_upstream" else Manner.OTHER
    if sample.error:
        return Manner.HUNG if sample.error.startswith(_NO_ANSWER) else Manner.LOCAL
    said = next((manner for words, manner in _BY_BODY.items() if words in sample.body), None)
    return said or (Manner.ANSWERED if sample.service else Manner.OTHER)


def recovery(span: FaultSpan, manner: Manner, promises: Promises) -> float:
    """Seconds after ``well`` for which the fault may still cost a request in that manner.

    What stood silent for so long is repeated by TCP after as long again at most, because the time between two
    repetitions doubles (RFC 6298, 5.5).  Where no packet was lost, one repetition is allowed for.
    """
    kind = span.fault.kind if span.fault else None
    lost = kind is not None and (kind.forgets or kind in _LOSES_PACKETS)
    repeated = RTO + (min(span.well - span.began, LONGEST_RTO) if lost else 0.0)
    return max(promises.connect, repeated) if manner in _NOT_CONNECTED else repeated


@dataclass(frozen=True)
class Scene:
    """What is known of a run."""

    spans: Sequence[FaultSpan]
    marks: Sequence[Mark]
    ways: Ways
    promises: Promises = Promises()
    pool: int = 0
    """So many connections to one instance may have been kept, unused, from before a fault."""
    resolution: float = 0.0
    """How well the times of faults, samples and marks are known to each other, in seconds."""
    processors: Processors = field(default_factory=Processors)
    """When machines had no processor of their host."""

    def felt(self, since: float, until: float) -> list[FaultSpan]:
        """The faults that may be felt in some manner at some moment of that time, and few others."""
        slots = range(int(since // SLOT), int(until // SLOT) + 1)
        return [self.spans[n] for n in sorted({n for slot in slots for n in self._by_slot.get(slot, ())})]

    def booted(self, nodes: Iterable[str]) -> list[FaultSpan]:
        """The faults after which one of the machines booted."""
        return [self.spans[n] for n in sorted({n for node in nodes for n in self._boots.get(node, ())})]

    def mark_before(self, workload: str, moment: float) -> Mark | None:
        """The last that the caller's proxy wrote down of the workload until then."""
        marks = self._marks.get(workload, [])
        found = bisect_right(marks, moment, key=lambda m: m.time)
        return marks[found - 1] if found else None

    @cached_property
    def _by_slot(self) -> Mapping[int, Sequence[int]]:
        found: dict[int, list[int]] = {}
        for number, span in enumerate(self.spans):
            over = span.well + recovery(span, Manner.REFUSED, self.promises) + self.resolution
            for slot in range(int((span.began - self.resolution) // SLOT), int(over // SLOT) + 1):
                found.setdefault(slot, []).append(number)
        return found

    @cached_property
    def _boots(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, list[int]] = {}
        for number, span in enumerate(self.spans):
            if span.fault is not None and (span.fault.kind.forgets or span.fault.kind is FaultKind.RESTART):
                for node in span.nodes:
                    found.setdefault(node, []).append(number)
        return found

    @cached_property
    def _marks(self) -> Mapping[str, Sequence[Mark]]:
        found: dict[str, list[Mark]] = {}
        for mark in sorted(self.marks, key=lambda m: m.time):
            found.setdefault(mark.workload, []).append(mark)
        return found


def losses(lost: Iterable[Sample], scene: Scene) -> tuple[Loss, ...]:
    """Each lost request with its causes, which are faults that proved themselves; without any it is unexplained,
    unless there is a doubt.  ``lost`` in the order of sending."""
    kept: Kept = Counter()
    maybe: Kept = Counter()
    proved = replace(scene, spans=[s for s in scene.spans if s.held])
    found: list[Loss] = []
    for sample in lost:
        causes = _causes(sample, proved, kept)
        doubts = [] if causes else _doubts(sample, scene, maybe)
        kinds = tuple(sorted({c.partition(" ")[0] for c in causes}))
        answer = sample.error or described(sample)
        found.append(Loss(sample.seq, sample.sent, answer, " and ".join(causes), kinds, " or ".join(doubts)))
    return tuple(found)


def _doubts(sample: Sample, scene: Scene, kept: Kept) -> list[str]:
    """What may have cost the request: faults that did not prove themselves; and for one that hung, that a machine
    on its way had no processor for most of its time."""
    if causes := _causes(sample, scene, kept):
        return [f"{cause} (unproved)" for cause in causes]
    if manner_of(sample, scene.ways.entry(sample)) is not Manner.HUNG:
        return []
    nodes = dict.fromkeys(n for h in scene.ways.of(sample, anywhere=True) for n in (h.caller.node, h.callee.node))
    starved = scene.processors.starved(nodes, sample.sent, sample.sent + sample.took)
    return [f"{NO_PROCESSOR} {node}" for node in starved]


def _causes(sample: Sample, scene: Scene, kept: Kept) -> list[str]:
    entry = scene.ways.entry(sample)
    manner = manner_of(sample, entry)
    way = scene.ways.of(sample, anywhere=manner is Manner.HUNG)
    if manner is Manner.NONE_LEFT:
        return _ejected(sample, scene, way)
    near = scene.felt(sample.sent, sample.sent + sample.took)
    found = [s.title for s in near if _explains(s, sample, manner, way, scene)]
    if found or manner is not Manner.CUT or entry is None or not entry["upstream_host"]:
        return found
    return _forgotten(sample, scene, way, kept)


def _explains(span: FaultSpan, sample: Sample, manner: Manner, way: Sequence[Hop], scene: Scene) -> bool:
    fault = span.fault
    if fault is None or not _in_time(span, sample, recovery(span, manner, scene.promises), scene.resolution):
        return False
    broken = hit_by(span, way, scene.ways.topology)
    if manner is Manner.LOCAL:  # its own proxy, or all of its machine
        callers = {h.caller.name for h in way if h.depth == 0}
        return any(h.depth == 0 for h in broken) and _hits_caller(span, callers, scene)
    fits = FITS[fault.kind]
    return any(manner in fits if h.depth == 0 else manner in _SEEN_FROM_AFAR & _from_afar(fits) for h in broken)


def _from_afar(fits: frozenset[Manner]) -> frozenset[Manner]:
    """What hangs, hangs for all who wait; what fails in any other way can come back as an error."""
    return (fits & {Manner.HUNG}) | ({Manner.ANSWERED} if fits else set())


def _hits_caller(span: FaultSpan, callers: set[str], scene: Scene) -> bool:
    assert span.fault is not None  # noqa: S101 - looked at by the only caller
    if span.fault.kind.of_workload:
        return bool(callers & named(span.fault.target, scene.ways.topology))
    return any(scene.ways.topology.workload(name).node in span.nodes for name in callers)


def _in_time(span: FaultSpan, sample: Sample, recovers: float, resolution: float) -> bool:
    ended = sample.sent + sample.took
    return span.began - resolution <= ended and sample.sent <= span.well + recovers + resolution


def _ejected(sample: Sample, scene: Scene, way: Sequence[Hop]) -> list[str]:
    """All instances that could have been called are out; each was put out while a fault could have hurt it."""
    found: dict[str, None] = {}
    for hop in (h for h in way if h.depth == 0):
        last = scene.mark_before(hop.callee.name, sample.sent + sample.took)
        if last is None or "uneject" in last.words:
            return []
        causes = [
            s.title
            for s in scene.felt(last.time, last.time)
            if s.fault is not None
            and Manner.NONE_LEFT in FITS[s.fault.kind]
            and s.began - scene.resolution <= last.time
            and last.time <= s.well + recovery(s, Manner.REFUSED, scene.promises) + scene.resolution
            and hit_by(s, [hop], scene.ways.topology)
        ]
        if not causes:
            return []
        found |= dict.fromkeys(f"{title} ({hop.callee.name} was ejected)" for title in causes)
    return list(found)


def _forgotten(sample: Sample, scene: Scene, way: Sequence[Hop], kept: Kept) -> list[str]:
    """A kept connection to a machine that has booted since; each costs one request."""
    first = [h.callee for h in way if h.depth == 0]
    for span in scene.booted(callee.node for callee in first):
        if _in_time(span, sample, scene.promises.kept, scene.resolution):
            count = (span, next(c.name for c in first if c.node in span.nodes))
            if kept[count] < scene.pool:
                kept[count] += 1
                return [f"{span.title} (in a connection kept from before)"]
    return []
