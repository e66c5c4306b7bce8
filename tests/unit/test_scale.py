"""Another number of instances: whose addresses stay, which steps it takes, and who is told first."""

import json
import os
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.backends.standalone import StandaloneBackend
from testbed.cli import run
from testbed.errors import BadInput, MeshError
from testbed.guests import Completed
from testbed.guests.keys import key_pair
from testbed.guests.ssh import SshConnection
from testbed.host.directories import testbed_home as home
from testbed.host.lock import hold
from testbed.lab.lab import Lab
from testbed.model.reading import instance_name, nodes_of, read_inventory, require_scale, topology_of
from testbed.model.topology import MeshWorkload, Topology
from testbed.pki import LabCa
from testbed.plan import WantedLab, WantedMachine, plan_scale
from testbed.resources import ResourceSet
from testbed.workflows import scaling

BOOKINFO = read_inventory((home() / "inventories" / "bookinfo.yaml").read_text(), "bookinfo.yaml")
NAMES = [instance_name(w, 0) for w in BOOKINFO.workloads]


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 20)))
def test_no_address_changes_when_another_workload_is_scaled(scale):
    alone = {
        w.name: w.address
        for name in [None, *scale]
        for w in topology_of(BOOKINFO, {name: scale[name]} if name else {}).workloads
    }
    together = {w.name: w.address for w in topology_of(BOOKINFO, scale).workloads}
    assert together.items() <= alone.items()
    nodes = {BOOKINFO.mesh_address(n.name) for n in BOOKINFO.nodes}
    assert len({*together.values()} | nodes) == len(together) + len(nodes)


def test_instances_are_spread_over_the_workloads_nodes_and_none_is_possible():
    spread = BOOKINFO.model_copy(
        update={
            "workloads": [w.model_copy(update={"node": ["app-1", "app-2"]}) for w in BOOKINFO.workloads],
        }
    )
    made = [w for w in topology_of(spread, {"ratings-v1": 3}).workloads if w.service == "ratings"]
    assert [(w.name, w.node) for w in made] == [
        ("ratings-v1", "app-1"), ("ratings-v1-2", "app-2"), ("ratings-v1-3", "app-1"),
    ]  # fmt: skip
    assert not [w for w in topology_of(BOOKINFO, {"ratings-v1": 0}).workloads if w.service == "ratings"]


def test_a_workloads_nodes_are_those_that_it_is_spread_over():
    assert nodes_of(BOOKINFO, "reviews-v3") == tuple(
        next(w.node for w in BOOKINFO.workloads if instance_name(w, 0) == "reviews-v3")
    )
    assert nodes_of(BOOKINFO, "nope") == ()


def test_no_node_of_a_lab_that_was_never_up_is_met_ahead(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    connected = []
    monkeypatch.setattr(Lab, "connection", lambda lab, node: connected.append(node))
    lab = Lab(BOOKINFO)
    lab.meet_ahead(["app-1"])
    assert not connected
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("wait", [0.0, 0.5])
def test_nodes_that_were_met_before_another_command_ended_are_met_again(tmp_path, monkeypatch, wait):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(scaling, "_AT_ONCE", scaling._AT_ONCE if wait else 10.0)  # a busy host is no other command
    lab, forgotten, taken = Lab(BOOKINFO), [], threading.Event()
    monkeypatch.setattr(lab, "forget_connections", lambda: forgotten.append(lab.id))

    def other():
        with hold(lab.directories):
            taken.set()
            time.sleep(wait)

    before = threading.Thread(target=other)
    before.start()
    taken.wait()
    if not wait:
        before.join()
    with scaling._held(lab):
        assert forgotten == ([lab.id] if wait else [])
    before.join()


def test_a_program_that_was_started_ahead_is_the_one_that_is_used_and_a_dead_one_is_not(tmp_path):
    key = key_pair(tmp_path / "key")
    connection, opened = SshConnection("node", lambda limit: None, key, key.public), []

    class Channel:
        closed, exit_status_ready = False, staticmethod(lambda: False)

        def __init__(self, argv):
            self.argv = list(argv)
            opened.append(self)

        def get_transport(self):
            return SimpleNamespace(is_active=lambda: True)

    def slow(argv, limit):
        time.sleep(0.3)
        return Channel(argv)

    connection._channel = slow
    ahead = threading.Thread(target=connection.start_ahead, args=(["tool"],))
    ahead.start()
    time.sleep(0.1)
    assert connection.start(["tool"]).alive  # waits for it
    ahead.join()
    assert len(opened) == 1
    connection.start(["tool"])  # each is used once
    connection.start_ahead(["tool"])
    opened[-1].closed = True
    connection.start(["tool"])
    assert len(opened) == 4


@pytest.mark.parametrize(
    ("name", "replicas", "said"),
    [
        ("nope-v1", 2, "has no workload 'nope-v1'"),
        ("ingressgateway", 2, "has no workload"),
        ("ratings-v1", -1, "not possible"),
        ("ratings-v1", 51, "not possible"),
        ("ratings-v1", 50, "has no room"),
    ],
)
def test_what_can_not_be_is_refused(name, replicas, said):
    with pytest.raises(BadInput, match=said):
        require_scale(BOOKINFO, name, replicas, "bookinfo.yaml")


def test_an_instance_takes_no_name_of_another_workload():
    version = "v3-2"
    workloads = [
        *BOOKINFO.workloads,
        BOOKINFO.workloads[0].model_copy(update={"service": "reviews", "version": version}),
    ]
    with pytest.raises(BadInput, match="called as another"):
        require_scale(BOOKINFO.model_copy(update={"workloads": workloads}), "reviews-v3", 2, "bookinfo.yaml")


def test_a_lab_forgets_what_its_inventory_does_not_have_and_what_it_says_itself():
    lab = Lab(BOOKINFO, "bookinfo.yaml")
    assert len(lab.topology.workloads) == 11
    lab.hold_to({"reviews-v3": 2, "gone-v1": 4, "ratings-v1": 1})
    assert lab.scale == {"reviews-v3": 2}
    assert len(lab.topology.workloads) == 12


WANTED = WantedLab(
    "lab", True, {"mesh": "s"}, {"left": WantedMachine("l", "w1"), "right": WantedMachine("r", "w2")}, {"in": 0}
)


def test_more_are_set_up_before_the_mesh_and_fewer_after_it():
    more = plan_scale(WANTED, {"left": "w1", "right": "before"}, fewer=False)
    assert [(s.name, set(s.needs)) for s in more] == [("workloads", set()), ("mesh", {"workloads"})]
    assert next(iter(more)).action.nodes == ("right",)
    fewer = plan_scale(WANTED, {"left": "w1", "right": "before"}, fewer=True)
    assert [(s.name, set(s.needs)) for s in fewer] == [("mesh", set()), ("workloads", {"mesh"})]


class Node:
    """A node that has ``old`` proxies in force and takes whatever it is given; it keeps who was told, in order."""

    def __init__(self, node, old, told, refuses=()):
        self.node, self._old, self._told, self._refuses = node, set(old), told, refuses
        self.alive = True

    def run(self, argv, *, stdin=b"", limit=60, check=True):
        del limit, check
        if argv[0] == "bash":
            return Completed(0, b"".join(self._texts(argv[-1])), b"")
        return Completed(0, json.dumps(self._take(argv[-1], json.loads(stdin))).encode(), b"")

    def _take(self, verb, document):
        names = list(document["workloads"])
        self._told.append((verb, *names, *document.get("set_up", "").split()))
        self._old |= set(names) - set(self._refuses)
        return {"workloads": {n: {"refused": {"cds.json": "no"}} if n in self._refuses else {} for n in names}}

    # The program that is kept there

    def start(self, argv):
        del argv
        return self

    def ask(self, line, limit):
        del limit
        document = json.loads(line)
        if document.get("do") != "look":
            return json.dumps(self._take("apply", document)).encode()
        self._told.append(("look", self.node))
        asked = "\n".join(shlex.join(["proxy", *map(str, proxy)]) for proxy in document["proxies"])
        return json.dumps(b"".join(self._texts(asked)).decode()).encode()

    def _texts(self, question) -> Iterator[bytes]:
        yield b"\0\0\0"  # no resources, no names, nothing stands still
        for line in question.splitlines():
            if line.startswith("proxy "):
                name = line.split()[2]
                revision = "old" if name in self._old else ""
                manifest = {"revision": revision, "files": {}, "refused": {}}
                yield json.dumps(manifest).encode() + b"\0\0there\0HTTP/1.1 200 OK\r\n\r\nserver.state: 0\n\0"

    @contextmanager
    def stream(self, argv, *, stdin=b"", limit=600):
        raise NotImplementedError
        yield


def mesh(old, refuses=(), places=(("a", "left"), ("b", "right"), ("c", "right")), **options):
    """A backend of workloads on nodes, and what these are told."""
    workloads = tuple(
        MeshWorkload(name, "default", name, {}, IPv4Address(f"10.0.0.{i + 1}"), node)
        for i, (name, node) in enumerate(places)
    )
    told = []
    nodes = {node: Node(node, old, told, refuses) for node in dict.fromkeys(node for _, node in places)}
    topology = Topology((), workloads, service_range=IPv4Network("240.240.0.0/16"))
    return StandaloneBackend(topology, nodes, LabCa.create(), **options), told


def pushed(old, refuses=()):
    backend, told = mesh(old, refuses)
    try:
        backend.apply(ResourceSet())
    except MeshError as e:
        told.append(str(e))
    return told


def test_a_new_workload_starts_with_its_proxys_files_before_other_nodes_are_asked_anything():
    backend, told = mesh({"a", "b"}, lasting=True)
    backend.begin({"right": "document"})
    assert told[0] == ("look", "right")
    assert sorted(told[1:]) == [("apply", "c", "document"), ("look", "left")]


def test_nodes_that_are_told_nothing_yet_wait_for_all_that_are(monkeypatch):
    backend, told = mesh({"a", "b", "c"}, places=(("a", "left"), ("b", "right"), ("c", "far")), lasting=True)
    begin = Node.start

    def start(self, argv):
        if self.node == "right":
            time.sleep(0.5)  # to connect takes a while
        return begin(self, argv)

    monkeypatch.setattr(Node, "start", start)
    backend.begin({"left": "document", "right": "document"})
    assert told.index(("look", "far")) > told.index(("look", "right"))


def test_others_leave_a_new_proxy_a_processor_until_it_has_started(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    places = [("a", "one"), ("b", "two"), ("c", "right"), ("d", "three"), ("e", "four")]
    backend, told = mesh({"a", "b", "d", "e"}, places=places, lasting=True)
    ask, two, last = Node.ask, threading.Event(), threading.Barrier(2, timeout=10)
    looking, most, order = set(), [], iter(range(4))

    def slow(self, line, limit):
        said = ask(self, line, limit)
        if self.node == "right":
            assert b'"do"' in line or two.wait(10)  # it starts for as long as two others take
            return said
        looking.add(self.node)
        if (number := next(order)) < 2:
            time.sleep(0.1)
            most.append(len(looking))
            looking.discard(self.node)
            if number == 1:
                two.set()
        else:
            last.wait()  # for the other one: they come at once
        return said

    monkeypatch.setattr(Node, "ask", slow)
    backend.begin({"right": "document"})
    assert most == [1, 1]
    assert len([t for t in told if t[0] == "look"]) == 5


def test_nodes_are_looked_at_once_for_all_of_it():
    backend, told = mesh({"a", "b"}, lasting=True)
    backend.begin({"right": "document"})
    told.clear()
    backend.change(lambda there: there)
    assert sorted(told) == [("apply", "a"), ("apply", "b")]  # c has all of it, certificate included
    told.clear()
    backend.change(lambda there: there)
    assert [t for t in told if t[0] == "look"] == [("look", "left"), ("look", "right")]


def test_a_new_workload_whose_proxy_refuses_is_an_error_and_others_are_told_nothing():
    backend, told = mesh({"a", "b"}, {"c"}, lasting=True)
    with pytest.raises(MeshError, match="c: rejected its configuration"):
        backend.begin({"right": "document"})
    assert [t for t in told if t[0] == "apply"] == [("apply", "c", "document")]


def test_a_new_proxy_is_in_force_before_others_are_told_of_it():
    first, *rest = pushed({"a", "b"})
    assert first == ("apply", "c")
    assert sorted(rest) == [("apply", "a"), ("apply", "b")]


def test_a_new_proxy_that_refuses_keeps_others_from_being_told():
    told = pushed({"a", "b"}, refuses={"c"})
    assert told[0] == ("apply", "c")
    assert not [t for t in told if t[0] == "apply" and t != ("apply", "c")]
    assert "rejected" in told[-1]


def test_proxies_that_are_all_new_are_told_together():
    assert sorted(pushed(set())) == [("apply", "a"), ("apply", "b", "c")]


@pytest.mark.parametrize(
    "words", [["reviews-v3"], ["--reset"], ["reviews-v3", "2", "--reset"], ["reviews-v3", "two"]]
)
def test_a_command_that_says_too_little_or_too_much_is_refused(words, capsys):
    assert run(["scale", *words]) == 2
    assert "Error: " in capsys.readouterr().err


def test_a_lab_with_a_cluster_is_refused(capsys):
    assert run(["scale", "-i", "k3s-small", "reviews-v3", "2"]) == 2
    assert "no `scale` of labs with a cluster" in capsys.readouterr().err
