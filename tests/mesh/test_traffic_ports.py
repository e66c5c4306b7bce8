"""Policies that hold on one port only, and what a Sidecar limits on the receiving side, on live Envoys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from harness import MeshHarness
from traffic_mesh import CLIENT, behaving, manifest, said, together, versions

from testbed.waiting import NotYet, wait_until

INVENTORY = """
id: ports
nodes:
  - {name: one}
  - {name: two}
services:
  - name: web
    ports: [{name: http, port: 80, targetPort: 8080}, {name: http-admin, port: 81, targetPort: 8081}]
workloads:
  - {service: web, version: v1, node: one}
  - {service: web, version: v2, node: two}
  - {service: client, version: v1, node: one, program: none}
"""
IN_TURN = {"simple": "ROUND_ROBIN"}
OUTLIER = {"consecutive5xxErrors": 1, "interval": "100ms", "baseEjectionTime": "300s", "maxEjectionPercent": 100}


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    with MeshHarness.from_inventory(INVENTORY) as mesh:
        yield mesh


def only_on_81(where: str, **policy) -> str:
    """Port 81 has ``policy``, in the rule's policy or in that of a subset, which all requests go to then."""
    own = {
        "loadBalancer": IN_TURN,
        "portLevelSettings": [{"port": {"number": 81}, "loadBalancer": IN_TURN, **policy}],
    }
    general = {"loadBalancer": IN_TURN}
    if where == "rule":
        subset, general = {"name": "all", "labels": {"app": "web"}}, own
    else:
        subset = {"name": "all", "labels": {"app": "web"}, "trafficPolicy": own}
    routed = [
        {
            "match": [{"port": port}],
            "retries": {"attempts": 0},
            "route": [{"destination": {"host": "web", "subset": "all", "port": {"number": port}}}],
        }
        for port in (80, 81)
    ]
    return together(
        manifest("DestinationRule", "web", {"host": "web", "trafficPolicy": general, "subsets": [subset]}),
        manifest("VirtualService", "web", {"hosts": ["web"], "http": routed}),
    )


def ask(mesh: MeshHarness, port: int, n: int = 1, **how):
    return mesh.request(CLIENT, f"http://web:{port}/", n=n, **how)


WHERE = pytest.mark.parametrize("where", ["rule", "subset"])


@WHERE
@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].loadBalancer.simple",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].loadBalancer.consistentHash.httpHeaderName",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].loadBalancer.simple",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].loadBalancer.consistentHash.httpHeaderName",
)
def test_a_port_balances_in_its_own_way(mesh, where):
    mesh.apply(only_on_81(where, loadBalancer={"consistentHash": {"httpHeaderName": "x-user"}}))
    found = {port: len(versions(ask(mesh, port, n=8, headers={"x-user": "ann"}))) for port in (80, 81)}
    assert found == {80: 2, 81: 1}


@WHERE
@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].outlierDetection.consecutive5xxErrors",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].outlierDetection.baseEjectionTime",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].outlierDetection.consecutive5xxErrors",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].outlierDetection.baseEjectionTime",
)
def test_an_endpoint_is_left_out_on_one_port_and_kept_on_the_other(mesh, where):
    mesh.apply(only_on_81(where, outlierDetection=OUTLIER))
    with behaving(mesh, "web-v1", status=500):

        def ejected() -> None:
            if versions(ask(mesh, 81, n=4)) != {"v2": 4}:
                raise NotYet("v1 still answers")

        wait_until("ejection of web-v1 on port 81", ejected, limit=20, interval=0.2)
        assert versions(ask(mesh, 80, n=8)) == {"v1": 4, "v2": 4}


@WHERE
@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].connectionPool.http.http2MaxRequests",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].connectionPool.http.http2MaxRequests",
)
def test_a_port_has_a_pool_of_its_own(mesh, where):
    mesh.apply(only_on_81(where, connectionPool={"http": {"http2MaxRequests": 1}}))
    with behaving(mesh, "web-v1", delay=0.7), behaving(mesh, "web-v2", delay=0.7):
        statuses = {port: Counter(a.status for a in ask(mesh, port, n=6, concurrency=6)) for port in (80, 81)}
    assert statuses[80] == {200: 6}
    assert statuses[81][200] >= 1
    assert statuses[81][503] >= 1


@WHERE
@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.trafficPolicy.portLevelSettings[].tls.mode",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].port.number",
    "DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].tls.mode",
)
def test_a_port_is_called_in_plaintext(mesh, where):
    mesh.apply(only_on_81(where, tls={"mode": "DISABLE"}))
    known = {port: "x-forwarded-client-cert" in said(ask(mesh, port)[0]) for port in (80, 81)}
    assert known == {80: True, 81: False}


def receiving(**spec) -> str:
    """A Sidecar for the callee."""
    return manifest("Sidecar", "web", {"workloadSelector": {"labels": {"app": "web"}}, **spec})


def directly(mesh: MeshHarness, port: int = 8080, **how):
    """Ask web-v1's sidecar without the caller's own."""
    address = mesh.topology.workload("web-v1").address
    return mesh.request(CLIENT, f"http://{address}:{port}/", user=1337, **how)


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param({"http": {"http2MaxRequests": 1}}, id="requests"),
        pytest.param({"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}}, id="connections"),
    ],
)
@pytest.mark.proves(
    "Sidecar.spec.inboundConnectionPool.http.http2MaxRequests",
    "Sidecar.spec.inboundConnectionPool.http.http1MaxPendingRequests",
    "Sidecar.spec.inboundConnectionPool.tcp.maxConnections",
)
def test_a_sidecar_limits_what_comes_in(mesh, pool):
    mesh.apply(receiving(inboundConnectionPool=pool))
    with behaving(mesh, "web-v1", delay=0.7):
        statuses = Counter(a.status for a in directly(mesh, n=6, concurrency=6))
    assert statuses[503] >= 1
    assert statuses[200] >= 1


@pytest.mark.proves(
    "Sidecar.spec.inboundConnectionPool.http.maxRequestsPerConnection",
    "Sidecar.spec.ingress[].connectionPool.http.maxRequestsPerConnection",
)
def test_connections_to_the_program_are_renewed_as_its_sidecar_says(mesh):
    """The pool of an ingress listener comes before the one for all ports."""

    def connections(**spec) -> int:
        mesh.apply(receiving(**spec))

        def total() -> int:
            found = mesh.stats("web-v1", "upstream_cx_total")
            return sum(v for k, v in found.items() if "inbound|8080||" in k)

        before = total()
        assert [a.status for a in directly(mesh, n=6, reuse=True)] == [200] * 6
        return total() - before

    def pool(limit: int) -> dict:
        return {"http": {"maxRequestsPerConnection": limit}}

    listener = {"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "defaultEndpoint": "127.0.0.1:8080"}
    assert connections(inboundConnectionPool=pool(1)) == 6
    assert connections(inboundConnectionPool=pool(1), ingress=[{**listener, "connectionPool": pool(2)}]) == 3
    assert connections(inboundConnectionPool=pool(100)) <= 1
