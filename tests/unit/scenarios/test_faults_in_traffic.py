"""Faults beside traffic: made at their time, always undone, and on one clock with what was sent."""

import json
import threading
import time
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest
from fault_lab import TOPOLOGY, fault

from testbed.errors import LabError
from testbed.faults.breaking import Made, StillBroken
from testbed.guests import Completed
from testbed.model.verdict import passed
from testbed.report.record import FaultSpan, Mark, StepRecord
from testbed.report.timeline import timeline_plot
from testbed.scenarios.clocks import DRIFTS, UPTIME_STEP, GuestClock, RunClock
from testbed.scenarios.faulting import _mark, _mark_of, _span
from testbed.scenarios.schedule import Schedule
from testbed.traffic import Sample


class Played:
    """A breaker that only notes what it is asked for."""

    def __init__(self, trouble=""):
        self.trouble = trouble
        self.events = []
        self.standing = []
        """What makes the next fault's start fail, one after the other."""

    @contextmanager
    def breaking(self, wanted, begun):
        if self.standing:
            raise StillBroken(wanted, self.standing.pop(), "the machine of one is broken already")
        now = time.monotonic()
        made = Made(wanted, "1", ("one",), began=now)
        begun(made)
        if isinstance(self.trouble, Exception):
            raise self.trouble
        if self.trouble:
            raise LabError("one", "break it", self.trouble)
        self.events.append(("made", wanted.kind.value))
        made.bit = now
        try:
            yield made
        finally:
            self.events.append(("undone", wanted.kind.value))


def test_faults_are_made_at_their_time_and_undone_at_its_end():
    played = Played()
    schedule = Schedule([fault("freeze", "one", at="100ms", **{"for": "100ms"})], played)
    began = time.monotonic()
    schedule.start(began)
    for thread in schedule._threads:
        thread.join()
    assert played.events == [("made", "freeze"), ("undone", "freeze")]
    assert schedule.made[0].began - began >= 0.1
    schedule.end()


def test_what_still_lasts_is_undone_when_the_traffic_ends_early():
    played = Played()
    faults = [fault("freeze", "one", **{"for": "1h"}), fault("link-down", "two", at="1h", **{"for": "1s"})]
    schedule = Schedule(faults, played)
    schedule.start(time.monotonic())
    while not played.events:
        time.sleep(0.01)
    schedule.end()
    assert played.events == [("made", "freeze"), ("undone", "freeze")]


def test_what_happens_at_one_moment_is_not_held():
    played = Played()
    schedule = Schedule([fault("reset", "one")], played)
    schedule.start(time.monotonic())
    schedule._threads[0].join()
    assert played.events == [("made", "reset"), ("undone", "reset")]


def test_a_fault_is_put_off_while_one_that_should_be_over_is_not():
    played, earlier = Played(), fault("power-off", "one", at="0s", **{"for": "100ms"})
    played.standing = [earlier]
    schedule = Schedule([fault("reset", "one", at="200ms")], played)
    began = time.monotonic()
    schedule.start(began)
    schedule._threads[0].join()
    assert played.events == [("made", "reset"), ("undone", "reset")]
    assert schedule.made[0].began - began >= 1.0
    assert not schedule.trouble


def test_a_fault_that_is_put_off_until_the_traffic_ends_is_not_made():
    played, earlier = Played(), fault("power-off", "one", at="0s", **{"for": "100ms"})
    played.standing = [earlier] * 100
    schedule = Schedule([fault("reset", "one", at="200ms")], played)
    schedule.start(time.monotonic())
    while len(played.standing) == 100:
        time.sleep(0.01)
    schedule.end()
    assert (schedule.made, schedule.trouble, played.events) == ([], [], [])
    assert [f.kind for f in schedule.put_off] == ["reset"]


def test_a_fault_alone_waits_for_all_before_it():
    played = Played()
    first, second = fault("restart", "one", at="0s"), fault("restart", "two", at="50ms", alone=True)
    slow = threading.Event()

    make = played.breaking

    @contextmanager
    def breaking(wanted, begun):
        with make(wanted, begun) as made:
            yield made
            slow.wait(0.3)  # its machine boots

    played.breaking = breaking
    schedule = Schedule([first, second], played)
    schedule.start(time.monotonic())
    for thread in schedule._threads:
        thread.join()
    assert played.events == [("made", "restart"), ("undone", "restart")] * 2
    assert not schedule.trouble


def test_a_fault_alone_that_never_came_to_be_is_an_error():
    faults = [fault("freeze", "one", **{"for": "1h"}), fault("restart", "two", at="50ms", alone=True)]
    played = Played()
    schedule = Schedule(faults, played)
    schedule.start(time.monotonic())
    while not played.events:
        time.sleep(0.01)
    schedule._over.wait(0.2)
    schedule.end()
    assert played.events == [("made", "freeze"), ("undone", "freeze")]
    assert "the traffic ended before" in str(schedule.trouble[0])


def test_faults_that_overlap_by_the_schedule_itself_are_an_error():
    played = Played()
    played.standing = [fault("power-off", "one", at="0s", **{"for": "10s"})]
    schedule = Schedule([fault("reset", "one", at="200ms")], played)
    schedule.start(time.monotonic())
    schedule._threads[0].join()
    assert "broken already" in str(schedule.trouble[0])


def test_trouble_with_a_machine_is_kept_for_the_verdict():
    schedule = Schedule([fault("reset", "one")], Played("it is gone"))
    schedule.start(time.monotonic())
    schedule._threads[0].join()
    schedule.end()
    assert "it is gone" in str(schedule.trouble[0])


@pytest.mark.parametrize("trouble", ["it is gone", ValueError("no number: ''")])
def test_a_fault_that_went_wrong_counts_from_when_it_began(trouble):
    """It may have bitten: what it cost must not be unexplained, and no exception ends its thread unseen."""
    schedule = Schedule([fault("link-flap", "one")], Played(trouble))
    schedule.start(time.monotonic())
    schedule._threads[0].join()
    schedule.end()
    [made] = schedule.made
    span = _span(made, made.began + 9, lambda host: host - made.began)
    assert (span.began, span.ended, span.well, span.held) == (0, 9, 9, False)
    assert str(trouble) in span.proof and str(trouble) in str(schedule.trouble[0])


def test_two_that_were_put_off_do_not_take_each_other_for_an_error():
    """Both are noted when they try at once: by their own times they were never to hold together."""
    played = Played()
    played.standing = [fault("freeze", "one", at="9s", **{"for": "2s"})]
    schedule = Schedule([fault("reset", "one", at="200ms")], played)
    schedule.start(time.monotonic())
    schedule._threads[0].join()
    assert (played.events, schedule.trouble) == ([("made", "reset"), ("undone", "reset")], [])


class Guest:
    """A guest whose clock is ``ahead``, and whose answers take their time, by a clock that only they move."""

    node = "one"

    def __init__(self, ahead, delays):
        self.ahead, self.delays, self.now = ahead, list(delays), 500.0

    def monotonic(self):
        return self.now

    def run(self, argv, **_):
        delay = self.delays.pop()
        self.now += delay * 0.3
        told = self.now + self.ahead
        self.now += delay * 0.7
        return Completed(0, f"{told} {told + 1e9}".encode(), b"")


def test_a_guests_clock_is_known_to_within_half_of_the_quickest_round_trip(monkeypatch):
    guest = Guest(1234.5, [0.2, 0.02, 0.1, 0.1, 0.2])
    monkeypatch.setattr("testbed.scenarios.clocks.time", guest)
    clock = GuestClock.measure(guest)
    assert abs(clock.monotonic - 1234.5) == pytest.approx(0.004)
    assert clock.resolution == pytest.approx(0.01 + UPTIME_STEP)
    assert clock.wall - clock.monotonic == pytest.approx(1e9)


def test_a_clock_that_drifts_is_known_at_every_moment_of_the_run():
    """Half a second in an hour is more than the time that a fault explains a loss before it began."""
    clock = RunClock(GuestClock(100.0, 0.0, 0.01, at=0.0), GuestClock(100.5, 0.0, 0.02, at=3600.0))
    assert [clock.guest(h) - h for h in (0.0, 1800.0, 3600.0)] == pytest.approx([100.0, 100.25, 100.5])
    assert clock.resolution == 0.02


def test_a_clock_that_stood_did_not_drift():
    frozen = RunClock(GuestClock(100.0, 0.0, 0.01, at=0.0), GuestClock(96.0, 0.0, 0.02, at=60.0))
    assert frozen.guest(30.0) == 130.0
    assert DRIFTS < 4.0 / 60.0


EJECT = {
    "type": "CONSECUTIVE_5XX",
    "cluster_name": "outbound|9080||reviews.default.svc.cluster.local",
    "upstream_url": "10.78.0.102:9080",
    "action": "EJECT",
    "enforced": True,
    "timestamp": "2026-11-22T21:30:01.500Z",
}


def test_an_ejection_is_read_from_envoys_own_log():
    began = 1795383000.0
    assert _mark(EJECT, TOPOLOGY.workloads, began) == Mark(
        1.5, "reviews-v2 ejected (consecutive 5xx)", "reviews-v2"
    )
    back = {**EJECT, "action": "UNEJECT", "enforced": False}  # Envoy says so of every one
    assert _mark(back, TOPOLOGY.workloads, began).words == "reviews-v2 unejected"
    assert _mark({**EJECT, "enforced": False}, TOPOLOGY.workloads, began) is None
    assert TOPOLOGY.workloads[1].address == IPv4Address("10.78.0.102")


def test_lines_that_a_power_loss_broke_are_no_ejections():
    whole = json.dumps(EJECT).encode()
    assert _mark_of(b"\0\0" + whole, TOPOLOGY.workloads, 0.0) is not None
    assert [_mark_of(line, TOPOLOGY.workloads, 0.0) for line in (whole[9:], b"", b"7", b"{}")] == [None] * 4


def test_the_timeline_shows_bands_losses_and_marks():
    samples = tuple(Sample(i, 0, 503 if 20 <= i < 25 else 200, i / 10, 0.01, 1, {}, "", "") for i in range(60))
    span = FaultSpan("freeze <one>", ("one",), 2.0, 2.1, 3.0, 3.2, True, "it stood")
    step = StepRecord("", passed("ok"), samples=samples, faults=(span,), marks=(Mark(2.4, "one ejected", "one"),))
    plot = timeline_plot(step)
    assert plot.count('class="band"') == 1 and plot.count('class="lost"') == 1
    assert "freeze &lt;one&gt;" in plot and "one ejected at 2.40 s" in plot
    assert timeline_plot(StepRecord("", passed("ok"), samples=samples)) == ""
