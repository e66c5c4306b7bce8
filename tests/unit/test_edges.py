"""Which requests prove a restored lab, and when they are asked."""

import threading

import pytest

from testbed.backends.contract import Applied
from testbed.compiler import compile_mesh
from testbed.errors import MeshError
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory, topology_of
from testbed.plan.steps import ApplyMesh, AskEdges
from testbed.resources import ResourceSet
from testbed.workflows import performing
from testbed.workflows.edges import edges_of
from testbed.workflows.loading import load_lab
from testbed.workflows.mesh import default_resources


@pytest.mark.parametrize(
    ("name", "inside", "ways_in"),
    [
        ("bookinfo", 60, {"/login": 1, "/logout": 1, "/productpage": 2}),
        ("two-nodes", None, {"/health": 2}),
        ("k3s-ambient", 4, {"/health": 2}),
    ],
)
def test_every_caller_asks_every_service_and_every_route_through_a_gateway_is_asked(name, inside, ways_in):
    lab = load_lab(name)
    resources = default_resources(lab)
    edges = list(edges_of(lab.topology, resources, compile_mesh(resources, lab.topology)))
    through = [e for e in edges if e.caller.name == "ingressgateway"]
    assert {e.path: len(e.workloads) for e in through} == ways_in
    assert {(e.address, e.port) for e in through} == {(str(through[0].caller.address), 80)}
    assert inside is None or len(edges) - len(through) == inside
    assert name == "bookinfo" or {len(e.workloads) for e in edges} == {2}, "both versions, whatever proxy is theirs"


def test_what_the_configuration_refuses_is_no_edge():
    lab = Lab(read_inventory((home() / "inventories" / "bookinfo.yaml").read_text(), "bookinfo.yaml"))
    none = ResourceSet()
    topology = topology_of(lab.inventory, {"ratings-v1": 0})
    edges = list(edges_of(topology, none, compile_mesh(none, topology)))
    assert edges and not [e for e in edges if e.host.startswith("ratings")]
    assert not [e for e in edges if e.caller.name == "ingressgateway"]


@pytest.fixture
def restored(monkeypatch):
    """A performer that restores a lab, and what it does; (performer, what was asked, how the push ends, errors)."""
    asked, pushed, errors = [], [Applied("r", {}, was_in_force=True)], []

    class Backend:
        def push(self, compiled, resources, *, limit):
            return pushed[0]

    def ask(lab, edges):
        asked.append(list(edges))
        if edges and errors:
            raise errors.pop()

    monkeypatch.setattr(performing, "standalone_of", lambda *_, **__: Backend())
    monkeypatch.setattr(performing, "ask_edges", ask)
    monkeypatch.setattr(performing.Performer, "_restored_resources", lambda self: ResourceSet())
    lab = Lab(read_inventory((home() / "inventories" / "two-nodes.yaml").read_text(), "two-nodes.yaml"))
    performer = performing.Performer(lab, None, ResourceSet(), restoring=object())
    performer._edges = ["one", "two"]

    def run():
        for action in (ApplyMesh(), AskEdges()):
            performer(action, threading.Event())
        return [edges for edges in asked if edges]

    return run, pushed, errors


def test_edges_are_asked_once_where_all_is_in_force_as_it_was_saved(restored):
    run, _, _ = restored
    assert run() == [["one", "two"]]


def test_one_that_is_not_answered_then_is_an_error_and_not_asked_again(restored):
    run, _, errors = restored
    errors.append(MeshError("one", "send a request", "no"))
    with pytest.raises(MeshError, match="send a request: no"):
        run()


def test_edges_are_asked_of_what_was_pushed_whatever_they_said_before(restored):
    run, pushed, errors = restored
    pushed[0] = Applied("r", {})
    errors.append(MeshError("one", "send a request", "no"))
    assert run() == [["one", "two"], ["one", "two"]]
