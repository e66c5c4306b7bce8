"""The istio backend with a real istiod and real Envoys, which need not be in pods.

TESTBED_KUBECONFIG names a kubeconfig of the API that istiod reads; TESTBED_MESH says where istiod and the proxies are
on this host, each in a network namespace of its own, by address: ``istiod=ADDRESS WORKLOAD=ADDRESS ...``.
"""

import json
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "mesh"))
from harness import LocalConnection

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.applying import LabResources
from testbed.backends.istio.backend import IstioBackend
from testbed.backends.istio.kubeconfig import read_access
from testbed.backends.istio.places import Place
from testbed.documents import parse
from testbed.errors import BadInput
from testbed.host.namespaces import HostNetwork
from testbed.model.topology import MeshWorkload, Topology
from testbed.resources import load

pytestmark = pytest.mark.full

LAB = "testbed-full-tests"
HOST = "echo.default.svc.cluster.local"
SERVICE = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: echo}}
spec:
  hosts: [{HOST}]
  addresses: [240.240.0.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 9080, name: http, protocol: HTTP}}]
  endpoints: [{{address: 10.78.0.250, labels: {{version: v1}}}}, {{address: 10.78.0.251, labels: {{version: v2}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: echo}}
spec:
  host: {HOST}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
"""


def split(v1):
    routes = f"{{destination: {{host: {HOST}, subset: v1}}, weight: {v1}}}, {{destination: {{host: {HOST}, subset: v2}}, weight: {100 - v1}}}"
    head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo}\n"
    return load(
        parse(f"{SERVICE}---\n{head}spec: {{hosts: [{HOST}], http: [{{route: [{routes}]}}]}}\n", "mesh.yaml")
    )


class Here:
    """Places on this host."""

    def __init__(self, addresses):
        self.found = {n: Place(f"{n}.default", "here", a, is_pod=False) for n, a in addresses.items()}
        self.control = self.found.pop("istiod")

    def proxies(self):
        return self.found

    def istiod(self):
        return self.control


@pytest.fixture
def backend():
    file, where = os.environ.get("TESTBED_KUBECONFIG", ""), os.environ.get("TESTBED_MESH", "")
    if not (file and where):
        pytest.skip("TESTBED_KUBECONFIG and TESTBED_MESH name no mesh")
    places = Here(dict(pair.split("=") for pair in where.split()))
    workloads = [
        MeshWorkload(name, "default", "default", {}, IPv4Address(place.address), "here")
        for name, place in places.proxies().items()
    ]
    api = KubeApi(read_access(Path(file).read_text(), file), HostNetwork().dial)
    topology = Topology((), tuple(workloads))
    yield IstioBackend(LAB, topology, {"here": LocalConnection("here")}, api, places)
    LabResources(api, LAB).apply(load([]))
    api.close()


def weights(backend, workload):
    dump = json.loads(backend.admin(workload, "/config_dump?resource=dynamic_route_configs"))
    hosts = [h for c in dump["configs"] for h in c["route_config"].get("virtual_hosts", [])]
    [echo] = [h for h in hosts if h["name"].startswith("echo.")]
    return [c["weight"] for c in echo["routes"][0]["route"]["weighted_clusters"]["clusters"]]


def test_what_was_applied_is_what_every_proxy_runs_when_apply_returns(backend):
    """Ten changes one after the other, the last of them back to what was there before."""
    seen, revisions = [], set()
    for v1 in [*range(60, 69), 60]:
        done = backend.apply(split(v1))
        seen += [(v1, weights(backend, w.name)) for w in backend.topology.workloads]
        revisions.add(done.revision)
    assert [s for s in seen if s[1] != [s[0], 100 - s[0]]] == []
    assert len(revisions) == 10
    assert backend.holds(split(60))
    assert not backend.holds(split(61))
    assert all(s.in_force for s in backend.states()), [s.summary for s in backend.states()]


def test_an_apply_that_changes_nothing_keeps_the_revision(backend):
    first = backend.apply(split(75))
    again = backend.apply(split(75))
    assert (again.revision, again.changed) == (first.revision, {})
    assert list(first.changed) == sorted(w.name for w in backend.topology.workloads)


def test_what_changed_behind_the_backend_is_seen_and_put_right(backend):
    backend.apply(split(75))
    LabResources(backend._api, LAB).apply(split(50))
    assert not backend.holds(split(75))
    assert not backend.diff(split(75)).is_empty
    backend.apply(split(75))
    assert {tuple(weights(backend, w.name)) for w in backend.topology.workloads} == {(75, 25)}


def test_what_is_refused_is_located_and_the_mesh_keeps_its_revision(backend):
    first = backend.apply(split(75))
    text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: taken}\nspec: {hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n"
    taken = load(parse(text, "taken.yaml"))
    other = LabResources(backend._api, f"{LAB}-other")
    other.apply(taken)
    try:
        with pytest.raises(BadInput, match=rf"taken\.yaml:3:12: metadata.name: .*lab {LAB}-other's"):
            backend.apply(split(50).merged(taken))
        assert {s.revision_wanted for s in backend.states()} == {first.revision}
        assert backend.diff(split(75)).is_empty
    finally:
        other.apply(load([]))
