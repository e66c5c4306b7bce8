"""Ambient mode: what a ztunnel says of the pods that it stands for, and when a change is in force there.

The dump has the form of a real one (ztunnel's admin.rs, inpod/admin.rs and rbac.rs).
"""

import json
from ipaddress import IPv4Address

import pytest
from fake_api import serving
from fake_mesh import FakeMesh, FakeNode, pod

from testbed.backends.istio.ambient import Tunnel, read_tunnel, tunnel_witness
from testbed.backends.istio.ambient_backend import AmbientBackend
from testbed.backends.istio.capturing import mode_of, require_captured, require_mode
from testbed.backends.istio.places import WORKLOAD_LABEL, ClusterPlaces
from testbed.documents import parse
from testbed.errors import LabError, MeshError, WaitTimeout
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources import load
from testbed.waiting import NotYet

POLICY = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: %s}}\n"
IDENTITY = "spiffe://cluster.local/ns/default/sa/echo"
TOPOLOGY = Topology(
    (),
    (
        MeshWorkload("echo-v1", "default", "echo", {}, IPv4Address("10.78.0.254"), "agent", kind=ProxyKind.ZTUNNEL),
        MeshWorkload("echo-v2", "default", "echo", {}, IPv4Address("10.78.0.253"), "machine"),
    ),
)


def resources(mode="STRICT"):
    return load(parse(POLICY % mode, "mesh.yaml"))


def dump(revision="", pods=(("echo-v1-abc", "Up"),), certificate="Available"):
    witness = {
        "name": "testbed-revision",
        "namespace": "istio-system",
        "scope": "WorkloadSelector",
        "action": "Deny",
        "rules": [[[{"namespaces": [{"Exact": f"testbed-revision.{revision}"}]}]]],
        "dry_run": False,
    }
    other = {
        **witness,
        "name": "istio_converted_static_strict",
        "rules": [[[{"notPrincipals": [{"Presence": []}]}]]],
    }
    return {
        "workloads": [],
        "services": [],
        "policies": [other, *([witness] if revision else [])],
        "stagedServices": {},
        "certificates": [{"identity": IDENTITY, "state": certificate, "certChain": [], "rootCerts": []}],
        "workloadState": {
            f"uid-{name}": {
                "state": state,
                "connections": {"inbound": [], "outbound": []},
                "info": {"name": name, "namespace": "default", "serviceAccount": "echo"},
            }
            for name, state in pods
        },
    }


class FakeAmbientMesh(FakeMesh):
    """One ztunnel among the proxies, which has the newest policy once it was asked ``lag`` times."""

    ztunnel = "10.42.1.3"
    pods = (("echo-v1-abc", "Up"),)
    certificate = "Available"

    def answer(self, node, address, port, path):
        if address != self.ztunnel or address in self.down:
            return super().answer(node, address, port, path)
        self.asked.append((node, address, port, path))
        policies = (o for p, o in self.api.objects.items() if p.endswith("authorizationpolicies/testbed-revision"))
        found = next(policies, None)
        revision = ""
        if found is not None:
            [name] = found["spec"]["rules"][0]["from"][0]["source"]["namespaces"]
            asked, known = self._seen.get(address, (0, ""))
            self._seen[address] = (asked + 1 if name == known else 1, name)
            revision = name.partition(".")[2] if self._seen[address][0] > self.lag else "older"
        return json.dumps(dump(revision, self.pods, self.certificate))

    def _syncz(self):
        found = [e for e in json.loads(super()._syncz()) if not e["proxy"].startswith("ztunnel")]
        sent = "2026-11-22T21:43:22Z/76416fd72-cf77-4407-b18c-0a9822b27bb8"
        kinds = ("istio.workload.Address", "istio.security.Authorization")
        types = {f"type.googleapis.com/{kind}": {"sent": sent, "acked": sent} for kind in kinds}
        if "ztunnel" in self.rejects:
            types[f"type.googleapis.com/{kinds[1]}"]["lastError"] = self.rejects["ztunnel"]
        if self.ztunnel not in self.down:
            found.append({"proxy": "ztunnel-xyz.istio-system", "resources": types})
        return json.dumps(found)


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as api:
        system = {"namespace": "istio-system"}
        pod(api, "istiod-1", {"app": "istiod"}, "10.42.0.2", node="server", **system)
        pod(api, "ztunnel-xyz", {"app": "ztunnel"}, "10.42.1.3", **system)
        captured = {"annotations": {"ambient.istio.io/redirection": "enabled"}}
        pod(api, "echo-v1-abc", {WORKLOAD_LABEL: "echo-v1"}, "10.42.1.7", **captured)
        yield api


@pytest.fixture
def mesh(server):
    return FakeAmbientMesh(server, {"10.78.0.253": "echo-v2.default"})


@pytest.fixture
def backend(api, mesh):
    nodes = {name: FakeNode(name, mesh) for name in ("server", "agent", "machine")}
    return AmbientBackend("small", TOPOLOGY, nodes, api, ClusterPlaces(api, TOPOLOGY, {"server", "agent"}))


def test_a_dump_tells_the_revision_the_pods_and_their_certificates():
    text = json.dumps(dump("abc-3", (("echo-v1-abc", "Up"), ("client-v2-def", "Pending")))).encode()
    assert read_tunnel(text) == Tunnel(
        ("abc-3",), {"echo-v1-abc.default": "Up", "client-v2-def.default": "Pending"}, {IDENTITY: "Available"}
    )
    assert read_tunnel(b'{"policies": [], "certificates": []}') == Tunnel(), "one that nobody has told anything"


@pytest.mark.parametrize(
    ("values", "lag"),
    [
        ({}, ()),
        ({"revision": "abc-2"}, ("revision abc-3",)),
        ({"pods": ()}, ("capture by ztunnel",)),
        ({"pods": (("echo-v1-abc", "Pending"),)}, ("capture by ztunnel (pending)",)),
        ({"certificate": "Unavailable: no"}, ("certificate (Unavailable: no)",)),
    ],
    ids=["complete", "older", "unknown pod", "pending", "no certificate"],
)
def test_what_a_pod_lacks_until_it_has_a_revision_is_named(values, lag):
    tunnel = read_tunnel(json.dumps(dump(**{"revision": "abc-3", **values})).encode())
    assert tunnel.lag("echo-v1-abc.default", IDENTITY, "abc-3") == lag


def test_the_witness_for_ztunnels_selects_nobody_and_refuses_nobody():
    spec = tunnel_witness("abc-3")["spec"]
    assert spec["selector"]["matchLabels"] == {"testbed-revision": "nobody"}
    assert spec["action"] == "DENY"


def test_an_apply_returns_when_the_ztunnel_has_the_revision_too(backend, mesh):
    mesh.lag = 2
    done = backend.apply(resources(), limit=9)
    assert done.revisions == {"echo-v1": done.revision, "echo-v2": done.revision}
    assert [s.summary for s in backend.states()] == ["echo-v1: in force", "echo-v2: in force"]
    assert backend.holds(resources())
    assert not [p for _, a, _, p in mesh.asked if a == "10.42.1.7"], "the pod has nobody to ask"


def test_what_was_open_before_a_change_is_cut_in_pods_and_only_then(backend):
    """ztunnel holds it against the policies that were attached when it was opened."""

    def cuts():
        commands = [c for node in backend._connections.values() for c in node.commands]
        return [c[4] for c in commands if c[5].startswith("ss -HKtn state established")]

    backend.apply(resources(), limit=5)
    assert cuts() == ["10.42.1.7"]
    backend.apply(resources(), limit=5)
    assert cuts() == ["10.42.1.7"], "nothing has changed"


def test_a_pod_that_is_not_captured_is_waited_for_and_is_not_in_force(backend, mesh):
    backend.apply(resources(), limit=5)
    mesh.pods = ()
    assert backend.states()[0].summary == "echo-v1: behind on capture by ztunnel"
    with pytest.raises(
        WaitTimeout, match=r"ztunnel-xyz\.istio-system on agent lacks capture by ztunnel for echo-v1"
    ):
        backend.apply(resources("PERMISSIVE"), limit=0.01)


def test_a_ztunnel_that_rejects_is_named_with_its_reason(backend, mesh):
    mesh.rejects["ztunnel"] = "no such rule"
    with pytest.raises(MeshError, match=r"ztunnel-xyz\.istio-system: take up Authorization: no such rule"):
        backend.apply(resources(), limit=5)
    assert dict(backend.states()[0].rejected) == {"Authorization": "no such rule"}


def test_a_ztunnel_that_does_not_answer_takes_its_pods_with_it(backend, mesh, server):
    backend.apply(resources(), limit=5)
    mesh.down.add(mesh.ztunnel)
    assert [s.in_force for s in backend.states()] == [False, True]
    assert backend.states()[0].summary == "echo-v1: its admin port does not answer"
    del server.objects["/api/v1/namespaces/istio-system/pods/ztunnel-xyz"]
    with pytest.raises(WaitTimeout, match="agent: find its ztunnel: none is running"):
        backend.apply(resources("PERMISSIVE"), limit=0.01)


def test_of_a_pod_there_is_the_dump_and_the_log_of_its_nodes_ztunnel(backend, server):
    assert json.loads(backend.admin("echo-v1", "/config_dump"))["workloadState"]
    with pytest.raises(LabError, match="echo-v1: ask its proxy for /stats: it is in ambient mode and has no Envoy"):
        backend.admin("echo-v1", "/stats")
    server.logs["/api/v1/namespaces/istio-system/pods/ztunnel-xyz/log"] = "a line of ztunnel\n"
    assert backend.log("echo-v1") == "a line of ztunnel\n"


def test_a_pods_own_address_is_still_where_a_stranger_calls_it(backend):
    assert str(backend.reached_at("echo-v1")) == "10.42.1.7"


def test_what_ambient_mode_lacks_is_said(backend):
    assert backend.not_applicable("hbone") is None
    assert "whatever a DestinationRule's tls says" in backend.not_applicable("tls-off")
    assert backend.not_applicable("ejections") == "Istio's proxies write no log of ejections"


def test_pods_are_waited_for_until_they_are_captured_and_who_sees_to_it_is_named(api, server):
    require_captured(api, TOPOLOGY)
    pod(server, "echo-v1-abc", {WORKLOAD_LABEL: "echo-v1"}, "10.42.1.7")
    pod(server, "gateway-1", {WORKLOAD_LABEL: "gateway"}, "10.42.1.8")
    said = "echo-v1-abc on agent is not captured: istio-cni-node has no pod there; ztunnel Running"
    with pytest.raises(NotYet, match=said):
        require_captured(api, TOPOLOGY)


def test_a_cluster_keeps_the_mode_that_it_was_made_with(api, server):
    assert mode_of(api) == "sidecar"
    server.objects["/apis/apps/v1/namespaces/istio-system/daemonsets/ztunnel"] = {"metadata": {"name": "ztunnel"}}
    assert mode_of(api) == "ambient"
    for mode, other in (("sidecar", "ambient"), ("ambient", "sidecar")):
        require_mode(mode, other, (), "small")  # nothing is there yet
        require_mode(mode, mode, {"1-31-0"}, "small")
        with pytest.raises(LabError, match=f"small: use {other} mode: its cluster has Istio in {mode} mode"):
            require_mode(mode, other, {"1-31-0"}, "small")
