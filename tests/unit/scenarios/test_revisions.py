"""Guests' clocks are known before and after faults, and a proxy that started anew is marked on the run's clock."""

import json
from types import SimpleNamespace

import pytest
from fault_lab import TOPOLOGY

from testbed.errors import LabError
from testbed.report.record import ClockRecord
from testbed.scenarios import revisions
from testbed.scenarios.clocks import GuestClock
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.revisions import clocks_of, compared, taken_up

HOST = 1_795_383_000.0
"""Wall time of the host when its monotonic clock was at 0."""


def dump(*updated):
    return json.dumps({"configs": [{"active_state": {"last_updated": u}} for u in updated]}).encode()


class Backend:
    """Proxies whose listeners were taken up when they say."""

    topology = TOPOLOGY

    def __init__(self, **said):
        self.said = said

    def connection(self, workload):
        return SimpleNamespace(node=TOPOLOGY.workload(workload).node)

    def admin(self, workload, path):
        assert path == revisions.TAKEN_UP
        said = self.said.get(workload.replace("-", "_"), dump())
        if isinstance(said, Exception):
            raise said
        return said


def lab(**said):
    return LabUnderTest(Backend(**said))


def test_a_proxy_that_took_up_its_configuration_during_the_run_is_marked_by_its_own_machines_clock():
    clocks = {node: GuestClock(0.0, HOST + ahead, 0.01) for node, ahead in (("one", 0.0), ("two", 100.0))}
    seen = lab(
        reviews_v1=dump("2026-11-22T21:30:07.250Z", "2026-11-22T21:30:06Z"),
        reviews_v2=dump("2026-11-22T21:31:49Z"),
        ratings_v1=LabError("two", "ask it", "no answer"),
        client_v1=dump("2026-11-22T21:30:09Z"),  # of a machine whose clock is not known
    )
    marks = taken_up(seen, clocks, {"reviews-v1": "abcdef0123", "reviews-v2": "fedcba98"}, lambda host: host - 5)
    assert [(m.time, m.words, m.workload, m.kind) for m in marks] == [
        (pytest.approx(2.25), "reviews-v1 took up revision abcdef01", "", "revision"),
        (pytest.approx(4.0), "reviews-v2 took up revision fedcba98", "", "revision"),
    ]
    assert taken_up(seen, clocks, {}, lambda host: host - 60) == []  # all before the run


@pytest.mark.parametrize("said", [b"", b"[]", b'{"configs": [{}]}', b"upstream error"])
def test_a_proxy_that_says_nothing_of_use_has_no_mark(said):
    assert taken_up(lab(reviews_v1=said), {"one": GuestClock()}, {}, lambda host: host) == []


def test_every_guests_clock_is_measured_and_compared(monkeypatch):
    now = {"one": GuestClock(0.0, 0.25, 0.01), "two": GuestClock(0.0, -2.0, 0.02)}

    def measure(connection):
        if connection.node not in now:
            raise LabError(connection.node, "ask it", "it is off")
        return now[connection.node]

    seen = lab()
    monkeypatch.setattr(GuestClock, "measure", measure)
    before = clocks_of(seen)
    now["two"] = GuestClock(0.0, -3.0, 0.01)
    del now["one"]
    monkeypatch.setattr(GuestClock, "of_host", lambda: GuestClock(0.0, 0.0))
    assert compared(before, clocks_of(seen)) == (
        ClockRecord("one", 0.25, None, 0.01),
        ClockRecord("two", -2.0, -3.0, 0.02),
    )


def test_what_is_asked_of_a_node_is_asked_of_whom_it_has_now():
    moved = lab()
    moved.backend.connection = lambda name: SimpleNamespace(
        node="one" if name == "ratings-v1" else TOPOLOGY.workload(name).node
    )
    assert moved.by_node(TOPOLOGY.workloads) == {
        "one": ["reviews-v1", "ratings-v1"],
        "two": ["reviews-v2"],
        "three": ["client-v1", "gateway"],
    }
