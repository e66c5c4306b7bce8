"""Traffic with faults in it: the schedule beside the samples, on one clock."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from testbed.errors import LabError, TestbedError, WaitTimeout
from testbed.faults.breaking import Made, StillBroken
from testbed.guests import NodeConnection
from testbed.model.fault import Fault
from testbed.model.overtime import Isolation
from testbed.model.scenario import Step, Traffic
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.report.record import FaultSpan, Mark
from testbed.scenarios.building import walk
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.holdings import Holding, damage, holdings, under_way
from testbed.scenarios.judge import Judge
from testbed.scenarios.lab import Breaks, LabUnderTest
from testbed.scenarios.requests import Sender, sender, traffic_spec
from testbed.traffic import Sample, TrafficSpec, TrafficSummary, send
from testbed.waiting import Cancelled, NotYet, wait_until

LOOKS = 5
STRANGERS = 1.0
"""Tries a second, without a certificate."""
PUT_OFF_LIMIT = 120.0
"""Seconds that a fault waits for a machine that by the schedule is well again, and still boots."""
SETTLE_LIMIT = 90.0
"""Seconds for every proxy to answer with its revision again, once all faults are undone."""
LETTING_GO_LIMIT = 20.0
"""Seconds for every proxy to hold no more connections and memory than before, once the traffic has ended."""


@dataclass(frozen=True)
class GuestClock:
    """A guest's clocks against the host's monotonic one, all in seconds: guest minus host.

    ``resolution`` is half of the quickest round trip: the offset lies within so much of the truth.
    """

    monotonic: float = 0.0
    wall: float = 0.0
    resolution: float = 0.0

    @classmethod
    def of_host(cls) -> GuestClock:
        """The host's own: nothing to measure."""
        return cls(0.0, time.time() - time.monotonic(), 0.0)

    @classmethod
    def measure(cls, connection: NodeConnection) -> GuestClock:
        """The quickest of a few looks."""
        best: GuestClock | None = None
        for _ in range(LOOKS):
            before = time.monotonic()
            said = connection.run(
                ["sh", "-c", "read -r up _ </proc/uptime; echo $up $(date +%s.%N)"]
            ).stdout.split()
            after = time.monotonic()
            middle, half = (before + after) / 2, (after - before) / 2
            if best is None or half < best.resolution:
                best = cls(float(said[0]) - middle, float(said[1]) - middle, half)
        assert best is not None  # noqa: S101 - LOOKS is positive
        return best


class Schedule:
    """Makes each fault at its time, in a thread of its own, and undoes it whatever happens."""

    def __init__(self, faults: list[Fault], breaker: Breaks) -> None:
        self._breaker = breaker
        self._faults = faults
        self._over = threading.Event()
        self._ended: set[int] = set()
        self._threads: list[threading.Thread] = []
        self.made: list[Made] = []
        self.trouble: list[TestbedError] = []

    def start(self, began: float) -> None:
        """``began``: when the traffic began, on the host's monotonic clock."""
        for number, fault in enumerate(self._faults):
            thread = threading.Thread(target=self._one, args=(number, fault, began), name=fault.title)
            self._threads.append(thread)
            thread.start()

    def _one(self, number: int, fault: Fault, began: float) -> None:
        if self._over.wait(max(0.0, began + fault.at - time.monotonic())):
            return
        try:
            if fault.alone:
                self._await_others(number, fault)
            with self._breaking(fault) as made:
                self.made.append(made)
                self._over.wait(max(0.0, made.bit + (fault.duration or 0) - time.monotonic()))
        except Cancelled:  # the traffic ended first
            if fault.alone:
                cause = "the traffic ended before the faults before it were over"
                self.trouble.append(LabError(fault.title, "make it", cause, "send for longer: `for`"))
        except TestbedError as e:
            self.trouble.append(e)
        finally:
            self._ended.add(number)

    def _await_others(self, number: int, fault: Fault) -> None:
        def over() -> None:
            if left := [f.title for n, f in enumerate(self._faults[:number]) if n not in self._ended]:
                raise NotYet(f"{left[0]} is not over")

        name = f"the faults before {fault.title} are over"
        wait_until(name, over, limit=PUT_OFF_LIMIT * number, interval=0.5, cancel=self._over)

    @contextmanager
    def _breaking(self, fault: Fault) -> Iterator[Made]:
        """Put off for a fault that should be over and is not; one that should still hold is an error."""
        with ExitStack() as stack:

            def begin() -> Made:
                try:
                    return stack.enter_context(self._breaker.breaking(fault))
                except StillBroken as e:
                    if e.other.at + (e.other.duration or 0) > fault.at:
                        raise
                    raise NotYet(f"{e.other.title} is not over") from None

            name = f"{', '.join(fault.target)} is well again, for {fault.title}"
            yield wait_until(name, begin, limit=PUT_OFF_LIMIT, interval=1, cancel=self._over)

    def end(self) -> None:
        """Undo what still stands, and wait until all is well."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def sample_under_faults(
    step: Step, spec: TrafficSpec, who: Sender, evidence: Evidence, judge: Judge, breaker: Breaks
) -> TrafficSummary:
    """Send all of the traffic, with the step's faults in it; fills ``evidence``.

    Raises what the machines' trouble raises, once every fault is undone.
    """
    lab = evidence.lab
    clock = (
        GuestClock.of_host() if who.caller is None else GuestClock.measure(lab.backend.connection(who.caller.name))
    )
    revisions = {s.workload: s.revision_wanted for s in lab.backend.states()}
    held = holdings(lab)
    schedule = Schedule(step.when.faults, breaker)

    def start(at: float) -> None:  # with the traffic: a slow first answer must not put off what is broken
        schedule.start(at - clock.monotonic)

    try:
        with companions(step, evidence), send(spec, who.at, who.argv, began=start) as run:
            for sample in run:
                evidence.samples.append(sample)
                judge.take(sample)
    finally:
        schedule.end()
        breaker.settle(schedule.made)
    if schedule.trouble:
        raise schedule.trouble[0]
    began = (run.began or 0.0) - clock.monotonic
    evidence.resolution = clock.resolution
    evidence.faults += sorted((_span(m, began) for m in schedule.made), key=lambda s: s.began)
    evidence.marks += _ejections(lab, who, began)
    evidence.unsettled = _unsettled(lab, revisions) or _kept(evidence, held)
    return run.summary


@contextmanager
def companions(step: Step, evidence: Evidence) -> Iterator[None]:
    """Who else calls all the while: a service that is not concerned, and a stranger, where they are expected."""
    found = dict(walk(step.expect))
    runs: list[tuple[Traffic, list[Sample]]] = []
    other: Isolation | None = found.get("isolation")
    if other is not None:
        change = {"service": other.service, "path": other.path, "rate": other.rate}
        runs.append((step.when.model_copy(update=change), evidence.bystanders))
    if "invariants" in found and found["invariants"].stranger:
        change = {"mesh": False, "rate": STRANGERS, "timeout": 3.0, "connections": "new"}
        runs.append((step.when.model_copy(update=change), evidence.strangers))
    threads = [
        threading.Thread(target=_accompany, args=(when, f"{evidence.spec.run}{n}", evidence.lab, into), daemon=True)
        for n, (when, into) in enumerate(runs)
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join((step.when.duration or 0) + 60)


def _accompany(when: Traffic, run: str, lab: LabUnderTest, into: list[Sample]) -> None:
    count = max(1, int((when.duration or 0) * (when.rate or 1)))
    who = sender(when, lab)
    with send(traffic_spec(when, lab, run, count), who.at, who.argv) as samples:
        into.extend(samples)


def _span(made: Made, began: float) -> FaultSpan:
    times = {name: getattr(made, name) - began for name in ("began", "bit", "ended", "well")}
    held, words = made.proof.held, made.proof.words
    return FaultSpan(made.fault.title, made.nodes, **times, held=held, proof=words, fault=made.fault)


def _ejections(lab: LabUnderTest, who: Sender, began: float) -> list[Mark]:
    """What the caller's proxy (from outside: the gateways') ejected, by its own log and on the run's clock."""
    gateways = [w for w in lab.topology.workloads if w.kind is ProxyKind.GATEWAY]
    marks: list[Mark] = []
    for proxy in [who.caller] if who.caller else gateways:
        connection = lab.backend.connection(proxy.name)
        offset = GuestClock.measure(connection).wall
        path = lab.guest.layout.outlier_log(proxy)
        text = connection.run(["tail", "-n", "500", path], check=False).stdout
        for line in text.splitlines():
            if mark := _mark(json.loads(line), lab.topology.workloads, offset + began):
                marks.append(mark)
    return sorted((m for m in marks if m.time >= 0), key=lambda m: m.time)


def _mark(event: dict[str, Any], workloads: tuple[MeshWorkload, ...], began: float) -> Mark | None:
    """One line of Envoy's ``OutlierDetectionEvent`` log."""
    if event.get("action") != "UNEJECT" and event.get("enforced") is False:
        return None
    address = str(event.get("upstream_url", "")).rpartition(":")[0]
    name = next((w.name for w in workloads if str(w.address) == address), address)
    at = datetime.fromisoformat(str(event["timestamp"]).replace("Z", "+00:00")).timestamp() - began
    words = str(event.get("action", "EJECT")).lower()
    kind = str(event.get("type", "")).lower().replace("_", " ")
    return Mark(at, f"{name} {words}ed" + (f" ({kind})" if words == "eject" and kind else ""), name)


def _unsettled(lab: LabUnderTest, revisions: dict[str, str]) -> str:
    """Which proxy does not answer with the revision that it had before; empty once all do."""

    def back() -> None:
        for state in lab.backend.states():
            if not state.in_force or state.revision_wanted != revisions[state.workload]:
                raise NotYet(state.summary)

    try:
        wait_until("every proxy has its revision again", back, limit=SETTLE_LIMIT, interval=1)
    except WaitTimeout as e:
        return e.last_seen
    return ""


def _kept(evidence: Evidence, before: dict[str, Holding]) -> str:
    """Connections or memory that a proxy does not let go of again; empty when all is as before."""
    most = under_way([*evidence.samples, *evidence.bystanders, *evidence.strangers])

    def gone() -> None:
        if found := damage(before, holdings(evidence.lab), most):
            raise NotYet(found)

    try:
        wait_until("every proxy holds no more than before", gone, limit=LETTING_GO_LIMIT, interval=1)
    except WaitTimeout as e:
        return e.last_seen
    return ""


def unable(step: Step, breaker: Breaks | None) -> str:
    """Why the step's faults can't be made here; empty when they can."""
    if not step.when.faults:
        return ""
    if breaker is None:
        return "this lab has no machines to break"
    return next((reason for f in step.when.faults if (reason := breaker.unable(f))), "")
