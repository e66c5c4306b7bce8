"""The istio backend against an API, an istiod and Envoys that answer in the forms of the real ones.

tests/full/test_cluster_backend.py tries the same on real ones.
"""

import inspect
import threading
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest
from fake_api import serving
from fake_mesh import FakeMesh, FakeNode, pod

from testbed.backends.contract import Backend
from testbed.backends.istio.backend import IstioBackend
from testbed.backends.istio.places import WORKLOAD_LABEL, ClusterPlaces
from testbed.documents import parse
from testbed.errors import BadInput, LabError, MeshError, WaitTimeout
from testbed.model.topology import MeshWorkload, Topology
from testbed.resources import ResourceSet, load

ROUTE = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo}\nspec: {hosts: [echo], http: [{timeout: %s, route: [{destination: {host: echo}}]}]}\n"
TOPOLOGY = Topology(
    (),
    (
        MeshWorkload("echo-v1", "default", "default", {}, IPv4Address("10.78.0.254"), "agent"),
        MeshWorkload("echo-v2", "default", "default", {}, IPv4Address("10.78.0.253"), "machine"),
    ),
)


def resources(timeout="1s"):
    return load(parse(ROUTE % timeout, "mesh.yaml"))


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as api:
        pod(api, "istiod-1", {"app": "istiod"}, "10.42.0.2", namespace="istio-system", node="server")
        pod(api, "echo-v1-abc", {WORKLOAD_LABEL: "echo-v1"}, "10.42.1.7")
        yield api


@pytest.fixture
def mesh(server):
    return FakeMesh(server, {"10.42.1.7": "echo-v1-abc.default", "10.78.0.253": "echo-v2.default"})


@pytest.fixture
def nodes(mesh):
    return {name: FakeNode(name, mesh) for name in ("server", "agent", "machine")}


@pytest.fixture
def backend(api, nodes):
    return IstioBackend("small", TOPOLOGY, nodes, api, ClusterPlaces(api, TOPOLOGY, {"server", "agent"}))


@pytest.mark.parametrize("name", [n for n in vars(Backend) if not n.startswith("_")])
def test_it_has_every_verb_of_a_backend(name):
    verb, ours = vars(Backend)[name], vars(IstioBackend)[name]
    if isinstance(verb, property):
        assert isinstance(ours, property)
    else:
        assert inspect.signature(ours) == inspect.signature(verb)


def test_an_apply_returns_when_every_proxy_has_the_revision(backend, mesh):
    mesh.lag = 2
    done = backend.apply(resources(), limit=5)
    assert done.revisions == {"echo-v1": done.revision, "echo-v2": done.revision}
    assert done.changed == dict.fromkeys(("echo-v1", "echo-v2"), ("VirtualService default/echo",))
    assert [s.summary for s in backend.states()] == ["echo-v1: in force", "echo-v2: in force"]
    assert backend.holds(resources())


def test_each_is_asked_on_its_own_node_by_its_address(backend, mesh):
    backend.apply(resources(), limit=5)
    assert {(n, a, p) for n, a, p, _ in mesh.asked} == {
        ("server", "10.42.0.2", 8080),
        ("agent", "10.42.1.7", 15000),
        ("machine", "10.78.0.253", 15000),
    }


def test_going_back_to_what_was_there_is_a_new_revision(backend):
    revisions = [backend.apply(resources(t), limit=5).revision for t in ("1s", "2s", "1s")]
    assert len(set(revisions)) == 3
    assert revisions[0].partition("-")[0] == revisions[2].partition("-")[0]


def test_a_change_is_made_to_what_is_there(backend):
    backend.apply(resources("1s"), limit=5)
    backend.change(lambda there: there.merged(resources("2s")), limit=5)
    assert backend.holds(resources("2s"))
    assert not backend.holds(resources("1s"))


def test_nothing_new_leaves_the_revision_and_writes_nothing(backend, server):
    first = backend.apply(resources(), limit=5)
    before = server.writes()
    again = backend.apply(resources(), limit=5)
    assert (again.revision, again.changed, server.writes()) == (first.revision, {}, before)


def test_a_change_whose_apply_was_killed_is_not_taken_for_one_in_force(backend, server):
    first = backend.apply(resources("1s"), limit=5)
    backend._resources.apply(resources("2s"))  # and the process is gone before the witness
    assert not backend.holds(resources("2s"))
    after = backend.apply(resources("2s"), limit=5)
    assert after.revision not in ("", first.revision)
    assert after.changed == {}
    assert backend.holds(resources("2s"))


def test_a_diff_shows_what_differs_and_changes_nothing(backend, server):
    backend.apply(resources("1s"), limit=5)
    before = server.writes()
    lines = backend.diff(resources("2s")).resources
    assert [line for line in lines if line[0] in "+-" and "timeout" in line] == [
        "-    timeout: 1s",
        "+    timeout: 2s",
    ]
    assert backend.diff(resources("1s")).is_empty
    assert server.writes() == before


def test_what_the_cluster_refuses_is_located_and_the_witness_stays(backend, server):
    first = backend.apply(resources(), limit=5)
    server.refusals["echo"] = (422, server.status(422, "invalid", [("spec.hosts", "must not be so")]))
    with pytest.raises(BadInput, match=r"mesh\.yaml:4:\d+: spec.hosts: the cluster refuses it: must not be so"):
        backend.apply(resources("2s"))
    assert backend.states()[0].revision_wanted == first.revision


def test_a_proxy_that_rejects_is_named_with_envoys_reason(backend, mesh):
    mesh.rejects["echo-v2.default"] = "no such filter"
    with pytest.raises(MeshError, match=r"echo-v2\.default: take up Listener: no such filter"):
        backend.apply(resources(), limit=5)
    state = backend.states()[1]
    assert (state.in_force, dict(state.rejected)) == (False, {"Listener": "no such filter"})


def test_a_proxy_that_does_not_answer_is_named_and_counts_as_down(backend, mesh):
    backend.apply(resources(), limit=5)
    mesh.down.add("10.78.0.253")
    assert [s.in_force for s in backend.states()] == [True, False]
    assert backend.states()[1].summary == "echo-v2: its admin port does not answer"
    assert not backend.holds(resources())
    with pytest.raises(WaitTimeout, match=r"echo-v2\.default does not answer"):
        backend.apply(resources("2s"), limit=0.01)


@pytest.mark.parametrize("address", ["10.42.0.2", "10.78.0.253"], ids=["istiod", "proxy"])
def test_an_answer_that_is_cut_off_is_waited_for_and_counts_as_none(backend, mesh, address):
    backend.apply(resources(), limit=5)
    mesh.dying.add(address)
    assert not backend.states()[1].in_force
    assert not backend.holds(resources())
    with pytest.raises(WaitTimeout, match="the answer is empty"):
        backend.apply(resources("2s"), limit=0.01)


def test_without_istiod_nobody_is_sure_to_have_everything(backend, mesh, server):
    backend.apply(resources(), limit=5)
    mesh.down.add(mesh.istiod)
    assert backend.states()[0].summary == "echo-v1: behind on istiod, which it is not connected to"
    del server.objects["/api/v1/namespaces/istio-system/pods/istiod-1"]
    assert not backend.holds(resources())
    with pytest.raises(MeshError, match="istiod: find its pod: 0 of them run"):
        backend.apply(resources("2s"), limit=5)


def test_what_settles_is_told(backend, mesh):
    backend.apply(resources(), limit=5)
    mesh.stats = "cluster_manager.warming_clusters: 2\nlistener_manager.total_filter_chains_draining: 1\n"
    assert backend.states()[0].summary == "echo-v1: warming 2 warming_clusters; draining 1"


@pytest.mark.parametrize(
    "change", [{"phase": "Pending"}, {"deletionTimestamp": "2026-11-22T00:00:00Z"}], ids=["starting", "leaving"]
)
def test_a_pod_that_does_not_run_is_waited_for_by_its_workload(backend, server, change):
    pod(server, "echo-v1-abc", {WORKLOAD_LABEL: "echo-v1"}, "10.42.1.7", **change)
    assert backend.states()[0].summary == "echo-v1: its admin port does not answer"
    with pytest.raises(WaitTimeout, match="no pod runs for echo-v1"):
        backend.apply(resources(), limit=0.01)
    with pytest.raises(MeshError, match="echo-v1: find its pod: none is running"):
        backend.admin("echo-v1", "/clusters")


def test_a_log_is_the_containers_or_the_units(backend, server, nodes):
    since = datetime(2026, 11, 22, 1, 2, 3, 500000, tzinfo=UTC)
    server.logs["/api/v1/namespaces/default/pods/echo-v1-abc/log"] = "a line of the container\n"
    assert backend.log("echo-v1", since) == "a line of the container\n"
    assert server.asked[-1][2] == {
        "container": "istio-proxy",
        "tailLines": "2000",
        "sinceTime": "2026-11-22T01:02:03.500000Z",
    }
    assert backend.log("echo-v2", since) == "a line of the unit\n"
    assert nodes["machine"].commands[-1][-1] == f"--since=@{since.timestamp():.6f}"


def test_what_is_applied_is_read_back_without_the_witness(backend):
    backend.apply(resources(), limit=5)
    assert [r.name for r in backend.applied()] == ["echo"]
    backend.apply(ResourceSet(), limit=5)
    assert len(backend.applied()) == 0


def test_a_pod_has_its_own_address_on_the_wire_and_its_nodes_and_a_machines_workload_has_one(api, nodes):
    places = ClusterPlaces(api, TOPOLOGY, {"server", "agent"})
    addresses = {"agent": IPv4Address("10.78.0.11")}
    found = IstioBackend("small", TOPOLOGY, nodes, api, places, node_addresses=addresses)
    assert [str(found.reached_at(w)) for w in ("echo-v1", "echo-v2")] == ["10.42.1.7", "10.78.0.253"]
    assert {str(a) for a in found.wire_addresses("echo-v1")} == {"10.42.1.7", "10.78.0.11"}
    assert {str(a) for a in found.wire_addresses("echo-v2")} == {"10.78.0.253"}


def istiods(server, *revisions):
    for i, revision in enumerate(revisions):
        labels = {"app": "istiod", "istio.io/rev": revision}
        pod(server, f"istiod-{revision}-x", labels, f"10.42.0.{i + 3}", namespace="istio-system", node="server")


def test_of_two_control_planes_the_wanted_one_is_asked(server, api):
    del server.objects["/api/v1/namespaces/istio-system/pods/istiod-1"]
    istiods(server, "1-30-4", "1-31-0")
    places = ClusterPlaces(api, TOPOLOGY, {"server", "agent"}, "1-31-0")
    assert places.istiod().address == "10.42.0.4"
    assert [p.address for p in places.control_planes("1-30-4")] == ["10.42.0.3"]
    later = ClusterPlaces(api, TOPOLOGY, {"server", "agent"}, "1-32-0")
    with pytest.raises(MeshError, match="2 of them run, one is expected"):
        later.istiod()
    del server.objects["/api/v1/namespaces/istio-system/pods/istiod-1-30-4-x"]
    assert later.istiod().address == "10.42.0.4", "an upgrade has not begun"


def test_while_a_pod_takes_over_from_another_it_is_the_one_that_counts(server, api):
    times = {"echo-v1-zzz": "2026-11-30T06:00:00Z", "echo-v1-aaa": "2026-11-30T06:00:20Z"}
    del server.objects["/api/v1/namespaces/default/pods/echo-v1-abc"]
    for i, (name, at) in enumerate(times.items()):
        pod(server, name, {WORKLOAD_LABEL: "echo-v1"}, f"10.42.1.{i + 8}", creationTimestamp=at)
    assert ClusterPlaces(api, TOPOLOGY, {"agent"}).proxies()["echo-v1"].proxy == "echo-v1-aaa.default"


def test_while_istiod_can_not_look_at_resources_they_wait(backend, server):
    message = 'Internal error occurred: failed calling webhook "validation.istio.io": connect: connection refused'
    server.refusals["echo"] = (500, server.status(500, message))
    with pytest.raises(WaitTimeout, match=r"the cluster's webhooks answer.*connection refused"):
        backend.apply(resources(), limit=0.2)
    threading.Timer(0.5, server.refusals.clear).start()
    assert backend.apply(resources(), limit=20).changed


def test_what_istiod_refuses_is_bad_input_at_once(backend, server):
    message = 'admission webhook "validation.istio.io" denied the request: configuration is invalid: no hosts'
    server.refusals["echo"] = (400, server.status(400, message))
    with pytest.raises(
        BadInput, match=r"mesh\.yaml:3:.*the cluster refuses it: configuration is invalid: no hosts"
    ):
        backend.apply(resources(), limit=20)


def test_a_workload_is_spoken_to_where_its_pod_is_and_at_home_without_one(backend, server, nodes):
    assert [backend.connection(w).node for w in ("echo-v1", "echo-v2")] == ["agent", "machine"]
    pod(server, "echo-v1-abc", {WORKLOAD_LABEL: "echo-v1"}, "10.42.0.9", node="server")
    backend._whereabouts._until = 0
    assert backend.connection("echo-v1").node == "server"
    assert nodes["agent"].named == [("10.42.1.7", "echo-v1")]
    assert nodes["server"].named == [("10.42.0.9", "echo-v1")]
    server.objects.clear()
    backend._whereabouts._until = 0
    assert backend.connection("echo-v1").node == "agent"
    with pytest.raises(KeyError):
        backend.connection("nobody")


def test_the_api_is_asked_once_for_many_and_a_namespace_is_named_once(backend, server, nodes):
    for _ in range(3):
        backend.connection("echo-v1"), backend.connection("echo-v2")
    assert len([path for _, path, _ in server.asked if path == "/api/v1/pods"]) == 1
    backend._whereabouts._until = 0
    backend.connection("echo-v1")
    assert len([path for _, path, _ in server.asked if path == "/api/v1/pods"]) == 2
    assert nodes["agent"].named == [("10.42.1.7", "echo-v1")]


def test_without_an_answer_of_the_api_a_pod_counts_as_being_where_it_was(backend, server, api, monkeypatch):
    pod(server, "echo-v1-abc", {WORKLOAD_LABEL: "echo-v1"}, "10.42.0.9", node="server")
    assert backend.connection("echo-v1").node == "server"

    def silent(*_):
        raise LabError("API", "GET", "it does not answer")

    monkeypatch.setattr(api, "every", silent)
    backend._whereabouts._until = 0
    assert backend.connection("echo-v1").node == "server"


def test_a_namespace_that_could_not_be_named_is_named_after_the_next_look(backend, nodes, monkeypatch):
    run, refused = nodes["agent"].run, []

    def once(argv, **rest):
        if not refused:
            refused.append(argv)
            raise LabError("agent", "run", "it does not answer")
        return run(argv, **rest)

    monkeypatch.setattr(nodes["agent"], "run", once)
    assert backend.connection("echo-v1").node == "agent"
    backend.connection("echo-v1")
    assert nodes["agent"].named == []
    backend._whereabouts._until = 0
    backend.connection("echo-v1")
    assert nodes["agent"].named == [("10.42.1.7", "echo-v1")]


def test_what_istios_proxies_lack_is_said(backend):
    assert backend.not_applicable("pods") is None
    assert backend.not_applicable("ejections") == "Istio's proxies write no log of ejections"
