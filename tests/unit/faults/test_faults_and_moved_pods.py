"""Faults in a cluster whose pods may move: what is waited for after a boot, and who sends pods home."""

from types import SimpleNamespace

import pytest
from fault_lab import TOPOLOGY, fault

from testbed.backends.istio.homes import BoundPod
from testbed.errors import LabError
from testbed.faults import breaking, inside
from testbed.faults.breaking import Breaker, Made
from testbed.faults.inside import GuestGrip, await_boot, workloads_on
from testbed.model.fault import FaultKind
from testbed.plan.podfaults import pod_broken
from testbed.waiting import NotYet

NODES = [
    SimpleNamespace(name="one", cluster="server"),
    SimpleNamespace(name="two", cluster="agent"),
    SimpleNamespace(name="three", cluster=None),
]


class Cluster:
    """Where pods are, look after look (the last one stays), and which nodes are ready."""

    def __init__(self, monkeypatch, *looks):
        self.looks, self.scripts, self.waits = list(looks), [], []
        self.lab = SimpleNamespace(has_cluster=True, inventory=SimpleNamespace(nodes=NODES), topology=TOPOLOGY)
        for module in (inside, breaking):
            monkeypatch.setattr(module, "bound_pods", lambda lab: self.pods())
        monkeypatch.setattr(inside, "api_of", lambda lab: SimpleNamespace(close=lambda: None))
        monkeypatch.setattr(inside, "Homes", lambda api, workloads: self)
        monkeypatch.setattr(inside, "await_answer", lambda lab, node: "")
        monkeypatch.setattr(inside, "in_guest", self.in_guest)

    def pods(self):
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        homes = {w.name: w.node for w in TOPOLOGY.workloads}
        return tuple(BoundPod(w, homes[w], f"{w}-abc", "default", node) for w, node in look.items())

    def require_pods_taken(self, nodes):
        self.waits.append(list(nodes))

    def in_guest(self, lab, node, script, limit=60):
        self.scripts.append((node, [w.name for w in TOPOLOGY.workloads if f"netns exec {w.name} " in script]))
        return 0, ""


HOME = {"reviews-v1": "one", "reviews-v2": "two", "ratings-v1": "two"}


def test_after_a_boot_the_pods_that_have_left_the_node_are_not_waited_for(monkeypatch):
    cluster = Cluster(monkeypatch, HOME | {"reviews-v2": "one"})
    await_boot(cluster.lab, "two")
    assert cluster.waits == [["two"]], "it takes pods first"
    assert cluster.scripts == [("two", ["ratings-v1"])]


def test_a_node_is_waited_for_with_the_pods_that_it_has_taken_in(monkeypatch):
    cluster = Cluster(monkeypatch, HOME | {"reviews-v2": "one"})
    await_boot(cluster.lab, "one")
    assert cluster.scripts == [("one", ["reviews-v1", "reviews-v2"])]


def test_a_pod_without_a_node_and_a_silent_api_are_waited_for(monkeypatch):
    missing = {w: n for w, n in HOME.items() if w != "ratings-v1"}
    cluster = Cluster(monkeypatch, LabError("API", "GET", "it does not answer"), missing, HOME)
    for seen in ("it does not answer", "no pod runs for ratings-v1"):
        with pytest.raises(NotYet, match=seen):
            inside._pods_by_node(cluster.lab, "two", "")
    await_boot(cluster.lab, "two")
    assert cluster.scripts == [("two", ["reviews-v2", "ratings-v1"])]


def test_a_machine_outside_is_waited_for_with_what_is_on_it(monkeypatch):
    cluster = Cluster(monkeypatch, HOME)
    await_boot(cluster.lab, "three")
    assert cluster.scripts == [("three", ["client-v1", "gateway"])]
    assert cluster.waits == []


def test_a_pod_that_was_broken_is_well_where_it_is_by_then(monkeypatch):
    cluster = Cluster(monkeypatch, HOME | {"reviews-v2": "one"})
    GuestGrip(pod_broken(FaultKind.SIDECAR_KILL, "two", "reviews-v2"), cluster.lab).await_well()
    assert cluster.scripts == [("one", ["reviews-v2"])]


def test_a_restart_drains_the_pods_that_are_there(monkeypatch):
    cluster = Cluster(monkeypatch, HOME | {"reviews-v2": "one"})
    assert [w.name for w in workloads_on(cluster.lab, "one")] == ["reviews-v1", "reviews-v2"]
    assert [w.name for w in workloads_on(cluster.lab, "three")] == ["client-v1", "gateway"]
    cluster.looks = [LabError("API", "GET", "it does not answer")]
    assert [w.name for w in workloads_on(cluster.lab, "one")] == ["reviews-v1"]


@pytest.fixture
def sent(monkeypatch):
    calls = []
    monkeypatch.setattr(breaking, "close_half_open", lambda *_: 0)
    monkeypatch.setattr(breaking, "bring_home", lambda lab, lost: calls.append(set(lost)) or ())
    return calls


@pytest.mark.parametrize("has_cluster", [True, False])
def test_pods_are_sent_home_once_all_is_mended(sent, has_cluster):
    made = [Made(fault("power-off", "two"), "1", ("two",)), Made(fault("freeze", "one"), "2", ("one",))]
    breaker = Breaker(SimpleNamespace(has_cluster=has_cluster))
    breaker.settle(iter(made))
    breaker.settle([])
    assert sent == ([{"one", "two"}] if has_cluster else [])


def test_a_workload_is_broken_where_its_pod_is_and_at_home_when_nobody_says(monkeypatch):
    cluster = Cluster(monkeypatch, HOME | {"reviews-v2": "one"})
    breaker = Breaker(cluster.lab)
    kill = fault("sidecar-kill", "reviews-v2")
    assert breaker._places(kill)["reviews-v2"] == "one"
    assert breaker._places(fault("power-off", "reviews-v2")) == {}
    cluster.looks = [LabError("API", "GET", "it does not answer")]
    assert breaker._places(kill) == {}
