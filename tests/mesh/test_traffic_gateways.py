"""Gateways, by what live Envoys answer at the edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import MeshHarness
from traffic_mesh import (
    CLIENT,
    GATEWAY,
    at_edge,
    behaving,
    echo,
    manifest,
    rule,
    said,
    started,
    to,
    together,
    versions,
)

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


@pytest.mark.proves(
    "Gateway.spec.servers[].tls.minProtocolVersion",
    "Gateway.spec.servers[].tls.maxProtocolVersion",
    "Gateway.spec.servers[].tls.cipherSuites[]",
)
def test_clients_must_speak_the_version_and_cipher_that_is_asked_for(mesh):
    strong, weak = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"

    def server(name: str, **tls) -> dict:
        settings = {"mode": "SIMPLE", "credentialName": f"{name}-cert", **tls}
        return {"port": {**HTTPS, "name": name}, "hosts": [f"{name}.example"], "tls": settings}

    mesh.apply(
        together(
            gateway(
                server("new", minProtocolVersion="TLSV1_3"),
                server("old", maxProtocolVersion="TLSV1_2"),
                server("strong", maxProtocolVersion="TLSV1_2", cipherSuites=[strong]),
            ),
            bound({"route": [to("v1")]}, host="*.example"),
            rule(),
        )
    )

    def accepted(name: str, version: str, ciphers: str = "") -> bool:
        (answer,) = at_edge(mesh, f"https://{name}.example/", tls=version, ciphers=ciphers)
        assert answer.status == 200 or "SSL" in answer.error, answer
        return answer.status == 200

    assert (accepted("new", "TLSv1_3"), accepted("new", "TLSv1_2")) == (True, False)
    assert (accepted("old", "TLSv1_3"), accepted("old", "TLSv1_2")) == (False, True)
    assert (accepted("strong", "TLSv1_2", strong), accepted("strong", "TLSv1_2", weak)) == (True, False)
    assert accepted("old", "TLSv1_2", weak)


@pytest.mark.proves("Gateway.spec.servers[].port.*")
def test_calls_of_browsers_are_translated_to_grpc(mesh):
    web = {"number": 80, "name": "grpc-web", "protocol": "GRPC-WEB"}
    mesh.apply(
        together(gateway({"port": web, "hosts": ["*"]}), bound({"route": [to("v1")]}, host="a.example"), rule())
    )
    asked = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    own = {"content-type": "application/grpc", "grpc-status": "5"}
    with behaving(mesh, "web-v1", headers=own):
        (answer,) = at_edge(
            mesh, "http://a.example/shop.Cart/Take", method="POST", headers=asked, body="\0\0\0\0\0"
        )
    assert said(answer)["content-type"] == "application/grpc"
    assert (answer.headers["content-type"], answer.headers["grpc-status"]) == ("application/grpc-web+proto", "5")


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
