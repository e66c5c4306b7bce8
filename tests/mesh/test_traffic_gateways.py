"""Gateways, by what live Envoys answer at the edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from harness import MeshHarness
from traffic_mesh import CLIENT, GATEWAY, echo, manifest, rule, said, started, to, together, versions

SELECTOR = {"istio": "ingressgateway"}
HTTP = {"number": 80, "name": "http", "protocol": "HTTP"}
HTTPS = {"number": 443, "name": "https", "protocol": "HTTPS"}


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    yield from started()


def gateway(*servers: dict, name: str = "front", namespace: str = "default") -> str:
    return manifest("Gateway", name, {"selector": SELECTOR, "servers": list(servers)}, namespace)


def bound(*http: dict, host: str, name: str = "", namespace: str = "default", gateways=("default/front",)) -> str:
    spec = {"hosts": [host], "gateways": list(gateways), "http": list(http)}
    return manifest("VirtualService", name or host.replace("*", "any"), spec, namespace)


def at_edge(mesh: MeshHarness, url: str, **how):
    """Ask the gateway from outside of the mesh."""
    address = str(mesh.topology.workload(GATEWAY).address)
    return mesh.request(CLIENT, url, connect=address, user=1337, **how)


@pytest.mark.proves(
    "Gateway.spec.servers[].port.*", "Gateway.spec.servers[].hosts[]", "Gateway.spec.selector{}",
    "VirtualService.spec.gateways[]",
)  # fmt: skip
def test_hosts_are_told_apart(mesh):
    mesh.apply(
        together(
            gateway({"port": HTTP, "hosts": ["*.example", "other/far.test"]}),
            bound({"route": [to("v1")]}, host="one.example"),
            bound({"route": [to("v2")]}, host="*.example"),
            bound({"route": [to("v2")]}, host="far.test"),
            rule(),
        )
    )
    assert versions(at_edge(mesh, "http://one.example/")) == {"v1": 1}
    assert versions(at_edge(mesh, "http://two.example/")) == {"v2": 1}
    assert [a.status for a in at_edge(mesh, "http://else.test/")] == [404]
    assert [a.status for a in at_edge(mesh, "http://far.test/")] == [404]  # only routes of "other" may bind


def test_the_gateway_shows_its_own_identity_to_the_workload(mesh):
    mesh.apply(
        together(gateway({"port": HTTP, "hosts": ["*"]}), bound({"route": [to("v1")]}, host="a.example"), rule())
    )
    (answer,) = at_edge(mesh, "http://a.example/")
    assert "sa/gateway" in said(answer)["x-forwarded-client-cert"]


@pytest.mark.proves("Gateway.spec.servers[].tls.httpsRedirect")
def test_plaintext_is_sent_to_https(mesh):
    mesh.apply(
        together(
            gateway({"port": HTTP, "hosts": ["a.example"], "tls": {"httpsRedirect": True}}),
            bound({"route": [to("v1")]}, host="a.example"),
            rule(),
        )
    )
    (answer,) = at_edge(mesh, "http://a.example/page")
    assert (answer.status, answer.headers["location"]) == (301, "https://a.example/page")


@pytest.mark.proves("Gateway.spec.servers[].tls.mode", "Gateway.spec.servers[].tls.credentialName")
def test_tls_is_terminated_by_name(mesh):
    simple = {"mode": "SIMPLE", "credentialName": "one-cert"}
    mesh.apply(
        together(
            gateway(
                {"port": HTTPS, "hosts": ["one.example"], "tls": simple},
                {
                    "port": {**HTTPS, "name": "https-two"},
                    "hosts": ["two.example"],
                    "tls": {"mode": "SIMPLE", "credentialName": "two-cert"},
                },
            ),
            bound({"route": [to("v1")]}, host="one.example"),
            bound({"route": [to("v2")]}, host="two.example"),
            rule(),
        )
    )
    roots = mesh.ca.roots.decode()
    assert versions(at_edge(mesh, "https://one.example/", roots=roots)) == {"v1": 1}
    assert versions(at_edge(mesh, "https://two.example/", roots=roots)) == {"v2": 1}
    (unknown,) = at_edge(mesh, "https://three.example/")
    assert unknown.status == 0


@pytest.mark.proves("Gateway.spec.servers[].tls.mode", "Gateway.spec.servers[].tls.subjectAltNames[]")
def test_client_certificates_are_asked_for(mesh):
    def server(mode: str, name: str, **more) -> dict:
        tls = {"mode": mode, "credentialName": f"{name}-cert", **more}
        return {"port": {**HTTPS, "name": name}, "hosts": [f"{name}.example"], "tls": tls}

    ours = "spiffe://cluster.local/ns/default/sa/client"
    mesh.apply(
        together(
            gateway(
                server("MUTUAL", "strict"),
                server("OPTIONAL_MUTUAL", "loose"),
                server("MUTUAL", "named", subjectAltNames=["spiffe://cluster.local/ns/default/sa/else"]),
            ),
            bound({"route": [to("v1")]}, host="*.example"),
            rule(),
        )
    )
    credential = mesh.ca.issue(ours)

    def status(name: str, shown) -> int:
        (answer,) = at_edge(mesh, f"https://{name}.example/", credential=shown)
        return answer.status

    assert (status("strict", credential), status("strict", None)) == (200, 0)
    assert (status("loose", credential), status("loose", None)) == (200, 200)
    assert status("named", credential) == 0


@pytest.mark.proves("VirtualService.spec.tcp[].*")
def test_plain_connections_are_carried(mesh):
    spec = {
        "hosts": ["*"],
        "gateways": ["front"],
        "tcp": [
            {
                "match": [{"port": 9000}],
                "route": [{"destination": {"host": "web", "subset": "v2", "port": {"number": 9000}}}],
            }
        ],
    }
    tcp = {"number": 9000, "name": "tcp", "protocol": "TCP"}
    mesh.apply(together(gateway({"port": tcp, "hosts": ["*"]}), manifest("VirtualService", "tcp", spec), rule()))
    address = str(mesh.topology.workload(GATEWAY).address)
    assert echo(mesh, address, 9000, user=1337) == "web-v2"


@pytest.mark.proves("VirtualService.spec.tls[].match[].sniHosts[]")
def test_tls_is_passed_through_by_name(mesh):
    """The application's own TLS reaches the workload's port untouched: here a port that speaks no TLS, so the
    handshake fails at the workload, and the access log says where the bytes went."""
    spec = {
        "hosts": ["in.example", "out.example"],
        "gateways": ["front"],
        "tls": [
            {
                "match": [{"port": 443, "sniHosts": [f"{name}.example"]}],
                "route": [{"destination": {"host": "web", "subset": subset, "port": {"number": 9000}}}],
            }
            for name, subset in (("in", "v1"), ("out", "v2"))
        ],
    }
    server = {"port": {**HTTPS, "protocol": "TLS"}, "hosts": ["*.example"], "tls": {"mode": "PASSTHROUGH"}}
    mesh.apply(together(gateway(server), manifest("VirtualService", "tls", spec), rule()))
    mesh.clear_logs()
    at_edge(mesh, "https://out.example/")
    (line,) = mesh.access_log(GATEWAY, at_least=1)
    assert line["requested_server_name"] == "out.example"
    assert line["upstream_cluster"] == "outbound|9000|v2|web.default.svc.cluster.local"


def kubernetes(kind: str, name: str, spec: dict) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
    )


def test_routes_of_the_gateway_api_work(mesh):
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    path = {"path": {"type": "PathPrefix", "value": "/shop"}}
    rewritten = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
    }
    header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "b"}]}}
    moved = {
        "type": "RequestRedirect",
        "requestRedirect": {
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"},
            "statusCode": 302,
        },
    }
    route = {
        "parentRefs": [{"name": "edge"}],
        "hostnames": ["api.example"],
        "rules": [
            {"matches": [path], "filters": [rewritten, header], "backendRefs": [{"name": "web", "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}], "filters": [moved]},
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/gone"}}],
                "backendRefs": [{"name": "nobody", "port": 80}],
            },
        ],
    }
    mesh.apply(
        together(
            kubernetes("Gateway", "edge", {"gatewayClassName": "istio", "listeners": [listener]}),
            kubernetes("HTTPRoute", "shop", route),
        )
    )
    (answer,) = at_edge(mesh, "http://api.example/shop/item")
    assert (answer.json()["path"], said(answer)["x-a"]) == ("/item", "b")
    assert [a.status for a in at_edge(mesh, "http://api.example/shopping")] == [404]  # whole path elements
    (answer,) = at_edge(mesh, "http://api.example/old/x")
    assert (answer.status, answer.headers["location"]) == (302, "http://api.example/new/x")
    assert [a.status for a in at_edge(mesh, "http://api.example/gone")] == [500]


@pytest.mark.proves(
    "GRPCRoute.spec.hostnames[]", "GRPCRoute.spec.rules[].matches[].method.*",
    "GRPCRoute.spec.rules[].matches[].headers[].*", "GRPCRoute.spec.rules[].backendRefs[].name",
    "GRPCRoute.spec.rules[].backendRefs[].port",
    "GRPCRoute.spec.rules[].filters[].requestHeaderModifier.set[].*",
)  # fmt: skip
def test_grpc_routes_go_by_service_method_and_headers(mesh):
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    marked = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-rule", "value": "2"}]}}
    web, spare = [{"name": "web", "port": 80}], [{"name": "spare", "port": 80}]
    rules = [
        {"matches": [{"method": {"service": "shop.Cart", "method": "Add"}}], "backendRefs": spare},
        {"matches": [{"method": {"service": "shop.Cart"}}], "filters": [marked], "backendRefs": web},
        {
            "matches": [
                {"method": {"type": "RegularExpression", "service": "shop[.]V[0-9]", "method": "Get.*"}},
                {"headers": [{"name": "x-user", "value": "jason"}]},
            ],
            "backendRefs": spare,
        },
        {"matches": [{"method": {"service": "shop.Gone"}}], "backendRefs": [{"name": "nobody", "port": 80}]},
    ]
    route = {"parentRefs": [{"name": "edge"}], "hostnames": ["grpc.example"], "rules": rules}
    mesh.apply(
        together(
            kubernetes("Gateway", "edge", {"gatewayClassName": "istio", "listeners": [listener]}),
            kubernetes("GRPCRoute", "shop", route),
        )
    )

    def called(path: str, **headers: str) -> str:
        asked = {"content-type": "application/grpc", "te": "trailers", **headers}
        (answer,) = at_edge(mesh, f"http://grpc.example{path}", method="POST", headers=asked)
        service = answer.workload.partition("-")[0]
        return service + said(answer).get("x-rule", "") if service else answer.headers.get("grpc-status", "none")

    assert called("/shop.Cart/Add") == "spare"
    assert called("/shop.Cart/Take") == "web2"
    assert called("/shop.V1/GetAll") == "spare"
    assert called("/other.Service/Do", **{"x-user": "jason"}) == "spare"
    assert called("/shop.V1/Put") == "12"  # no route: UNIMPLEMENTED
    assert called("/shop.Gone/Do") == "2"  # a backend that is not there: 500, and so UNKNOWN


def test_nothing_listens_without_a_gateway(mesh):
    mesh.apply("")
    assert [a.status for a in at_edge(mesh, "http://one.example/")] == [0]


@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.tls.mode",
    "DestinationRule.spec.trafficPolicy.tls.credentialName",
    "DestinationRule.spec.trafficPolicy.tls.sni",
    "ServiceEntry.spec.ports[].targetPort",
)
def test_a_sidecar_begins_tls_for_its_program(mesh):
    """SIMPLE where the server wants no certificate, MUTUAL where it does; with SIMPLE there it is sent away."""

    def server(mode: str, name: str) -> dict:
        tls = {"mode": mode, "credentialName": f"{name}-cert"}
        return {"port": {**HTTPS, "name": name}, "hosts": [f"{name}.example"], "tls": tls}

    def origin(mode: str, name: str) -> str:
        tls = {"mode": mode, "credentialName": "out", "sni": f"{name}.example"}
        spec = {
            "host": "edge.test",
            "workloadSelector": {"matchLabels": {"app": "client"}},
            "trafficPolicy": {"tls": tls},
        }
        return manifest("DestinationRule", "edge", spec)

    edge = {
        "hosts": ["edge.test"],
        "location": "MESH_EXTERNAL",
        "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 443}],
        "endpoints": [{"address": str(mesh.topology.workload(GATEWAY).address)}],
    }
    around = together(
        gateway(server("SIMPLE", "open"), server("MUTUAL", "strict")),
        bound({"route": [to("v2")]}, host="*"),
        rule(),
        manifest("ServiceEntry", "edge", edge),
    )
    for mode, name, status in (("SIMPLE", "open", 200), ("SIMPLE", "strict", 503), ("MUTUAL", "strict", 200)):
        rewritten = {"rewrite": {"authority": f"{name}.example"}, "route": [{"destination": {"host": "edge.test"}}]}
        caller = manifest("VirtualService", "edge", {"hosts": ["edge.test"], "http": [rewritten]})
        mesh.apply(together(around, origin(mode, name), caller))
        (answer,) = mesh.request(CLIENT, "http://edge.test/")
        assert answer.status == status, (mode, name)
