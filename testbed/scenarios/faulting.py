"""Traffic with faults in it: the schedule beside the samples, on one clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from testbed.errors import LabError, TestbedError, WaitTimeout
from testbed.faults.breaking import Made
from testbed.model.fault import FaultKind
from testbed.model.scenario import Step
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.report.record import FaultSpan, Mark
from testbed.scenarios.clocks import GuestClock, RunClock
from testbed.scenarios.companions import companions
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.following import Follower
from testbed.scenarios.holdings import Holding, damage, holdings, under_way
from testbed.scenarios.judge import Judge
from testbed.scenarios.lab import Breaks, LabUnderTest
from testbed.scenarios.processors import Watch
from testbed.scenarios.requests import Sender
from testbed.scenarios.revisions import clocks_of, compared, taken_up
from testbed.scenarios.schedule import Schedule
from testbed.traffic import TrafficSpec, TrafficSummary, send
from testbed.waiting import NotYet, wait_until

SETTLE_LIMIT = 90.0
"""Seconds for every proxy to answer with its revision again, once all faults are undone."""
LETTING_GO_LIMIT = 20.0
"""Seconds for every proxy to hold no more connections and memory than before, once the traffic has ended."""
EVENTS = 16 * 1024**2
"""Bytes of a proxy's log of ejections that are read, from its end: some fifty thousand."""


def sample_under_faults(
    step: Step,
    spec: TrafficSpec,
    who: Sender,
    evidence: Evidence,
    judge: Judge,
    breaker: Breaks,
    follower: Follower,
) -> TrafficSummary:
    """Send all of the traffic, with the step's faults in it; fills ``evidence``.

    Once there are samples nothing that goes wrong loses them: what a fault ran into, and what of the lab could not
    be looked at, is in the evidence too, and keeps a verdict from being a PASS.  Every fault is undone at the end.
    """
    lab = evidence.lab
    first, clocks = _clock(lab, who), clocks_of(lab)
    revisions = {s.workload: s.revision_wanted for s in lab.backend.states()}
    held = holdings(lab)
    schedule = Schedule(step.when.faults, breaker, follower)
    watch = Watch(lab.threads) if lab.threads else None
    # how long an upgrade takes nobody knows beforehand: the traffic's time is its limit
    open_ended = any(f.kind is FaultKind.UPGRADE for f in step.when.faults)

    def start(at: float) -> None:  # with the traffic: a slow first answer must not put off what is broken
        schedule.start(at - first.monotonic)

    try:
        with ExitStack() as stack:
            if watch is not None:
                stack.enter_context(watch.watching())
            stack.enter_context(companions(step, evidence))
            run = stack.enter_context(send(spec, who.at, who.argv, began=start))
            for sample in run:
                evidence.samples.append(sample)
                follower.sample(sample)
                judge.take(sample)
                if open_ended and schedule.over:
                    break
    except TestbedError as e:
        if not evidence.samples:
            raise
        evidence.trouble.append(str(e))
    finally:
        schedule.end()
        evidence.spoiled += [str(e) for e in schedule.trouble]
        evidence.put_off += [f.title for f in schedule.put_off]
        with _noting(evidence):
            breaker.settle(schedule.made)
    ended, last = time.monotonic(), first
    with _noting(evidence):
        last = _clock(lab, who)
    clock, began = RunClock(first, last), run.began or 0.0
    evidence.began = run.began
    evidence.resolution = clock.resolution
    spans = (_span(m, ended, lambda host: clock.guest(host) - began) for m in schedule.made)
    evidence.faults += sorted(spans, key=lambda s: s.began)
    if watch is not None:
        evidence.processors = watch.seen.on(lambda host: clock.guest(host) - began)
    with _noting(evidence):
        evidence.marks += _ejections(lab, who, began)
    with _noting(evidence):
        later = clocks_of(lab)
        evidence.clocks = compared(clocks, later)
        evidence.marks += taken_up(lab, later, revisions, lambda host: clock.guest(host) - began)
    with _noting(evidence):
        evidence.unsettled = _unsettled(lab, revisions) or _kept(evidence, held)
    return run.summary


def _clock(lab: LabUnderTest, who: Sender) -> GuestClock:
    return (
        GuestClock.of_host() if who.caller is None else GuestClock.measure(lab.backend.connection(who.caller.name))
    )


@contextmanager
def _noting(evidence: Evidence) -> Iterator[None]:
    """What goes wrong in the block is noted, and the run goes on without it."""
    try:
        yield
    except TestbedError as e:
        evidence.trouble.append(str(e))


def _span(made: Made, ended: float, clock: Callable[[float], float]) -> FaultSpan:
    """The fault on the run's clock.  One that broke off may have lasted to the end."""
    bit = made.bit or made.ending or made.began
    mended = made.ended or made.well or ended
    times = {"began": made.began, "bit": bit, "ended": mended, "well": made.well or ended}
    held, words = made.proof.held, made.proof.words
    on_run = {name: clock(at) for name, at in times.items()}
    return FaultSpan(made.fault.title, made.nodes, **on_run, held=held, proof=words, fault=made.fault)


def _ejections(lab: LabUnderTest, who: Sender, began: float) -> list[Mark]:
    """What the caller's proxy (from outside: the gateways') ejected, by its own log and on the run's clock, which
    is the caller's own: what the log has by the wall's clock is taken to the monotonic one of that same machine."""
    gateways = [w for w in lab.topology.workloads if w.kind is ProxyKind.GATEWAY]
    marks: list[Mark] = []
    for proxy in [who.caller] if who.caller else gateways:
        connection = lab.backend.connection(proxy.name)
        clock = GuestClock.measure(connection)
        start = began + (clock.wall - clock.monotonic if who.caller else clock.wall)
        path = lab.guest.layout.outlier_log(proxy)
        text = connection.run(["tail", "-c", str(EVENTS), path], check=False).stdout
        for line in text.split(b"\n"):
            if (mark := _mark_of(line, lab.topology.workloads, start)) is not None:
                marks.append(mark)
    return sorted((m for m in marks if m.time >= 0), key=lambda m: m.time)


def _mark_of(line: bytes, workloads: tuple[MeshWorkload, ...], began: float) -> Mark | None:
    try:
        return _mark(json.loads(line.strip(b"\0 ")), workloads, began)
    except (ValueError, KeyError, TypeError, AttributeError):  # cut by `tail`, or by the end of a machine
        return None


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

    return _in_the_end("every proxy has its revision again", back, SETTLE_LIMIT)


def _kept(evidence: Evidence, before: dict[str, Holding]) -> str:
    """Connections or memory that a proxy does not let go of again; empty when all is as before."""
    strangers = [s for tries in evidence.strangers.values() for s in tries]
    most = under_way([*evidence.samples, *evidence.bystanders, *strangers])

    def gone() -> None:
        if found := damage(before, holdings(evidence.lab), most):
            raise NotYet(found)

    return _in_the_end("every proxy holds no more than before", gone, LETTING_GO_LIMIT)


def _in_the_end(name: str, probe: Callable[[], None], limit: float) -> str:
    """What the probe still says at the limit; empty once it says nothing.  Raises LabError where the lab could not
    be asked to the end: that is no damage of the mesh's."""
    broken: list[LabError] = []

    def look() -> None:
        broken.clear()
        try:
            probe()
        except LabError as e:
            broken.append(e)
            raise NotYet(str(e)) from None

    try:
        wait_until(name, look, limit=limit, interval=1)
    except WaitTimeout as e:
        if broken:
            raise broken[0] from None
        return e.last_seen
    return ""


def unable(step: Step, breaker: Breaks | None) -> str:
    """Why the step's faults can't be made here; empty when they can."""
    if not step.when.faults:
        return ""
    if breaker is None:
        return "this lab has no machines to break"
    return next((reason for f in step.when.faults if (reason := breaker.unable(f))), "")
