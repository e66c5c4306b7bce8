"""ServiceEntry, WorkloadEntry, Sidecar, TCP rules, peer modes and access logs, by what live Envoys do."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from harness import MeshHarness
from traffic_mesh import CLIENT, behaving, echo, manifest, routes, rule, started, to, together, versions

from testbed.compiler import service_addresses


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    yield from started()


def address(mesh: MeshHarness, workload: str) -> str:
    return str(mesh.topology.workload(workload).address)


def entry(host: str = "outside.example", **more) -> str:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]
    return manifest("ServiceEntry", "entry", {"hosts": [host], "ports": ports, **more})


@pytest.mark.proves(
    "ServiceEntry.spec.hosts[]", "ServiceEntry.spec.ports[].*", "ServiceEntry.spec.endpoints[].address",
    "ServiceEntry.spec.endpoints[].labels{}", "ServiceEntry.spec.endpoints[].weight",
    "ServiceEntry.spec.location", "ServiceEntry.spec.resolution",
)  # fmt: skip
def test_a_service_outside_is_called_in_plaintext(mesh):
    """Endpoints of an entry without an identity get no mesh TLS, and are weighed as it says."""
    ends = [
        {"address": address(mesh, "web-v1"), "weight": 1},
        {"address": address(mesh, "web-v2"), "weight": 3},
    ]
    peers = manifest("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}})
    balance = {"host": "outside.example", "trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}}
    mesh.apply(
        together(
            peers,
            entry(resolution="STATIC", location="MESH_EXTERNAL", endpoints=ends),
            manifest("DestinationRule", "outside", balance),
        )
    )
    mesh.clear_logs()
    assert versions(mesh.request(CLIENT, "http://outside.example/", n=40)) == {"v1": 10, "v2": 30}
    assert mesh.access_log("web-v1", at_least=1)[-1]["downstream_peer_uri_san"] is None


@pytest.mark.proves("ServiceEntry.spec.workloadSelector.labels{}", "WorkloadEntry.spec.*")
def test_workload_entries_stand_behind_a_service(mesh):
    inside = {
        "address": address(mesh, "web-v2"),
        "labels": {"app": "outside", "security.istio.io/tlsMode": "istio"},
        "serviceAccount": "web",
        "ports": {"http": 8080},
    }
    spec = {"resolution": "STATIC", "location": "MESH_INTERNAL", "workloadSelector": {"labels": {"app": "outside"}}}
    strict = manifest("PeerAuthentication", "default", {"mtls": {"mode": "STRICT"}})
    mesh.apply(together(strict, entry(**spec), manifest("WorkloadEntry", "one", inside)))
    mesh.clear_logs()
    assert versions(mesh.request(CLIENT, "http://outside.example/", n=5)) == {"v2": 5}
    line = mesh.access_log("web-v2", at_least=5)[-1]
    assert line["downstream_peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/client"


def test_a_name_is_resolved_by_the_proxy(mesh):
    """The name of the endpoint is one that the client's own hosts file has."""
    ends = [{"address": "spare.default.svc.cluster.local", "ports": {"http": 80}}]
    mesh.apply(entry(resolution="DNS", location="MESH_INTERNAL", endpoints=ends))
    mesh.clear_logs()
    mesh.request(CLIENT, "http://outside.example/")
    line = mesh.access_log(CLIENT, at_least=1)[-1]
    assert line["upstream_cluster"] == "outbound|80||outside.example"
    hosts = service_addresses(mesh.resources(""), mesh.topology)
    assert line["upstream_host"] == f"{hosts['spare.default.svc.cluster.local']}:80"


def test_without_resolution_the_callers_address_counts(mesh):
    mesh.apply(
        together(
            manifest("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}}),
            manifest(
                "ServiceEntry",
                "wild",
                {
                    "hosts": ["*.wild.example"],
                    "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
                    "resolution": "NONE",
                },
            ),
        )
    )
    mesh.clear_logs()
    (answer,) = mesh.request(CLIENT, "http://a.wild.example:8080/", connect=address(mesh, "web-v2"))
    assert answer.version == "v2"
    assert mesh.access_log(CLIENT, at_least=1)[-1]["upstream_cluster"] == "outbound|8080||*.wild.example"


@pytest.mark.proves("ServiceEntry.spec.exportTo[]")
def test_an_entry_may_be_private(mesh):
    ends = [{"address": address(mesh, "web-v1")}]
    mesh.apply(
        together(
            manifest("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}}),
            entry(resolution="STATIC", endpoints=ends, exportTo=["."], addresses=["240.240.7.7"]),
            manifest("Sidecar", "default", {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}, "other"),
        )
    )
    at = {"connect": "240.240.7.7"}
    assert versions(mesh.request(CLIENT, "http://outside.example/", **at)) == {"v1": 1}
    assert [a.status for a in mesh.request("far-v1", "http://outside.example/", **at)] in ([502], [0])


@pytest.mark.proves(
    "Sidecar.spec.egress[].hosts[]",
    "Sidecar.spec.outboundTrafficPolicy.mode",
    "Sidecar.spec.workloadSelector.labels{}",
)
def test_a_sidecar_limits_what_can_be_called(mesh):
    limits = {
        "workloadSelector": {"labels": {"app": "client"}},
        "egress": [{"hosts": ["./web.default.svc.cluster.local"]}],
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
    }
    mesh.apply(manifest("Sidecar", "limits", limits))
    assert [a.status for a in mesh.request(CLIENT, "http://web/")] == [200]
    assert [a.status for a in mesh.request(CLIENT, "http://spare/")] == [502]
    assert [a.status for a in mesh.request("web-v1", "http://spare/")] == [200]


def test_unknown_hosts_pass_through_unless_told_otherwise(mesh):
    peers = manifest("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}})
    mesh.apply(peers)
    where = address(mesh, "web-v1")
    mesh.clear_logs()
    (answer,) = mesh.request(CLIENT, "http://unknown.example:8080/", connect=where)
    assert answer.version == "v1"
    assert mesh.access_log(CLIENT, at_least=1)[-1]["upstream_cluster"] == "PassthroughCluster"
    mesh.apply(together(peers, manifest("Sidecar", "s", {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})))
    (answer,) = mesh.request(CLIENT, "http://unknown.example:8080/", connect=where)
    assert answer.status in (0, 502)


@pytest.mark.proves("Sidecar.spec.ingress[].port.*", "Sidecar.spec.ingress[].defaultEndpoint")
def test_an_ingress_listener_leads_where_it_says(mesh):
    spec = {
        "workloadSelector": {"labels": {"app": "spare"}},
        "ingress": [
            {"port": {"number": 8080, "protocol": "HTTP", "name": "http"}, "defaultEndpoint": "0.0.0.0:8080"}
        ],
    }
    mesh.apply(manifest("Sidecar", "in", spec))
    assert [a.status for a in mesh.request(CLIENT, "http://spare/")] == [200]
    spec["ingress"][0]["defaultEndpoint"] = "127.0.0.1:1"
    mesh.apply(manifest("Sidecar", "in", spec))
    assert [a.status for a in mesh.request(CLIENT, "http://spare/")] == [503]


@pytest.mark.proves(
    "VirtualService.spec.tcp[].route[].weight", "VirtualService.spec.tcp[].route[].destination.subset"
)
def test_connections_are_split_by_weight(mesh):
    def split(first: int, second: int) -> str:
        parts = [
            {"destination": {"host": "web", "subset": v, "port": {"number": 9000}}, "weight": w}
            for v, w in (("v1", first), ("v2", second))
            if w
        ]
        return manifest("VirtualService", "tcp", {"hosts": ["web"], "tcp": [{"route": parts}]})

    where = str(mesh.topology.service("web.default.svc.cluster.local").address)
    mesh.apply(together(split(100, 0), rule()))
    assert {echo(mesh, where, 9000) for _ in range(5)} == {"web-v1"}
    mesh.apply(together(split(50, 50), rule()))
    counts = Counter(echo(mesh, where, 9000) for _ in range(40))
    assert set(counts) == {"web-v1", "web-v2"}


@pytest.mark.parametrize(
    ("mode", "plain", "mutual"), [("STRICT", 0, 200), ("PERMISSIVE", 200, 200), ("DISABLE", 200, 200)]
)
def test_peer_modes_take_what_they_say(mesh, mode, plain, mutual):
    mesh.apply(manifest("PeerAuthentication", "default", {"mtls": {"mode": mode}}))
    where = address(mesh, "web-v1")
    assert [a.status for a in mesh.request(CLIENT, f"http://{where}:8080/", user=1337)] == [plain]
    mesh.clear_logs()
    (answer,) = mesh.request(CLIENT, "http://web/")
    assert answer.status == mutual
    peer = mesh.access_log(f"web-{answer.version}", at_least=1)[-1]["downstream_peer_uri_san"]
    assert (peer is None) == (mode == "DISABLE")


def test_a_port_may_have_a_mode_of_its_own(mesh):
    spec = {
        "selector": {"matchLabels": {"app": "web"}},
        "mtls": {"mode": "STRICT"},
        "portLevelMtls": {8080: {"mode": "DISABLE"}},
    }
    mesh.apply(manifest("PeerAuthentication", "web", spec))
    assert [a.status for a in mesh.request(CLIENT, f"http://{address(mesh, 'web-v1')}:8080/", user=1337)] == [200]
    assert [a.status for a in mesh.request(CLIENT, "http://web/")] == [200]
    where = str(mesh.topology.service("web.default.svc.cluster.local").address)
    assert echo(mesh, where, 9000).startswith("web-v")


@pytest.mark.proves("Telemetry.spec.accessLogging[].*", "Telemetry.spec.selector.matchLabels{}")
def test_access_logs_are_filtered_and_turned_off(mesh):
    server_off = {"accessLogging": [{"match": {"mode": "SERVER"}, "disabled": True}]}
    only_errors = {
        "selector": {"matchLabels": {"app": "client"}},
        "accessLogging": [{"providers": [{"name": "envoy"}], "filter": {"expression": "response.code >= 400"}}],
    }
    mesh.apply(
        together(
            manifest("Telemetry", "server", server_off),
            manifest("Telemetry", "client", only_errors),
            routes(
                {"match": [{"uri": {"prefix": "/bad"}}], "directResponse": {"status": 404}},
                {"route": [to()]},
            ),
        )
    )
    mesh.clear_logs()
    for path in ("/good", "/bad", "/good"):
        mesh.request(CLIENT, f"http://web{path}")
    assert [line["path"] for line in mesh.access_log(CLIENT, at_least=1)] == ["/bad"]
    assert mesh.access_log("web-v1") + mesh.access_log("web-v2") == []


def test_the_workloads_own_port_is_reached_on_a_port_of_no_service(mesh):
    """Ports that no service names are passed on under the same rules."""
    mesh.apply(manifest("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}}))
    mesh.clear_logs()
    (answer,) = mesh.request(CLIENT, f"http://{address(mesh, 'web-v1')}:9/", user=1337)
    assert answer.status in (0, 503)  # nothing listens there, but the proxy took it
    assert mesh.access_log("web-v1", at_least=1)[-1]["upstream_cluster"] == "InboundPassthroughCluster"


@pytest.mark.proves("ServiceEntry.spec.ports[].protocol")
def test_a_port_without_a_protocol_takes_requests_and_any_other_bytes(mesh):
    """The first bytes tell: requests are routed, logged and sent with mutual TLS; others go through as they are."""
    ends = [{"address": address(mesh, "web-v2"), "ports": {"any": 8080, "more": 9000}, "serviceAccount": "web"}]
    ports = [{"number": 7000, "name": "any"}, {"number": 7001, "name": "more"}]
    routed = routes({"timeout": "0.5s", "route": [{"destination": {"host": "any.example"}}]}, host="any.example")
    known = entry("any.example", ports=ports, resolution="STATIC", location="MESH_INTERNAL", endpoints=ends)
    mesh.apply(together(known, routed))
    (answer,) = mesh.request(CLIENT, "http://any.example:7000/")
    assert answer.version == "v2"
    with behaving(mesh, "web-v2", hang=True):
        assert mesh.request(CLIENT, "http://any.example:7000/")[0].status == 504  # read as HTTP, or it would hang
    vip = service_addresses(mesh.resources(known), mesh.topology)["any.example"]
    code = (
        f"import socket; s = socket.create_connection(({vip!r}, 7001), 5); s.settimeout(5)\n"
        "s.sendall(b'\\x00\\x01 no request at all\\n'); print(s.makefile('rb').readline().decode().strip())"
    )
    said = mesh.command(CLIENT, [sys.executable, "-ISE", "-c", code]).decode().strip()
    assert said == "web-v2"


def test_policies_read_requests_on_a_port_without_a_protocol(mesh):
    """The caller's proxy tells the other by ALPN that it is HTTP, as Istio's does; other bytes stay a connection."""
    ends = [{"address": address(mesh, "web-v1"), "ports": {"any": 8099}, "serviceAccount": "web"}]
    known = entry(
        "any.example",
        ports=[{"number": 7000, "name": "any"}],
        resolution="STATIC",
        location="MESH_INTERNAL",
        endpoints=ends,
    )
    listens = {
        "workloadSelector": {"labels": {"app": "web", "version": "v1"}},
        "ingress": [{"port": {"number": 8099, "name": "any"}, "defaultEndpoint": "127.0.0.1:8080"}],
    }
    deny = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"]}}]}]}
    mesh.apply(
        together(
            known,
            manifest("Sidecar", "web", listens),
            manifest("PeerAuthentication", "default", {"mtls": {"mode": "STRICT"}}),
            manifest("AuthorizationPolicy", "no", deny),
        )
    )
    assert [mesh.request(CLIENT, f"http://any.example:7000/{p}")[0].status for p in ("yes", "no")] == [200, 403]


@pytest.mark.proves(
    "VirtualService.spec.tcp[].match[].destinationSubnets[]",
    "VirtualService.spec.tcp[].match[].port",
    "VirtualService.spec.tcp[].match[].sourceLabels{}",
)
def test_connections_are_routed_by_port_address_and_caller(mesh):
    where = str(mesh.topology.service("web.default.svc.cluster.local").address)

    def part(subset: str, **match) -> dict:
        destination = {"host": "web", "subset": subset, "port": {"number": 9000}}
        return {"match": [match], "route": [{"destination": destination}]}

    for first, caller, answer in (
        (part("v2", port=9000), CLIENT, "web-v2"),
        (part("v2", port=9001), CLIENT, "web-v1"),
        (part("v2", destinationSubnets=[f"{where}/32"]), CLIENT, "web-v2"),
        (part("v2", destinationSubnets=["10.250.0.0/16"]), CLIENT, "web-v1"),
        (part("v2", sourceLabels={"app": "client"}), CLIENT, "web-v2"),
        (part("v2", sourceLabels={"app": "client"}), "spare-v1", "web-v1"),
    ):
        spec = {"hosts": ["web"], "tcp": [first, part("v1", port=9000)]}
        mesh.apply(together(manifest("VirtualService", "tcp", spec), rule()))
        assert echo(mesh, where, 9000, caller=caller) == answer, first


@pytest.mark.proves(
    "VirtualService.spec.tls[].match[].sniHosts[]",
    "VirtualService.spec.tls[].match[].port",
    "VirtualService.spec.tls[].match[].sourceLabels{}",
    "VirtualService.spec.tls[].match[].sourceNamespace",
    "VirtualService.spec.tls[].match[].gateways[]",
    "VirtualService.spec.tls[].match[].destinationSubnets[]",
    "VirtualService.spec.tls[].route[].destination.*",
)
def test_the_programs_own_tls_is_routed_by_name_and_caller(mesh):
    """The ports speak no TLS, so handshakes fail at the workload; the caller's log says which one that was."""
    ends = [{"address": address(mesh, "web-v1"), "ports": {"tls": 9000}}]
    ports = [{"number": 8443, "name": "tls", "protocol": "TLS"}]
    known = entry("tls.example", ports=ports, resolution="STATIC", location="MESH_EXTERNAL", endpoints=ends)
    where = service_addresses(mesh.resources(known), mesh.topology)["tls.example"]

    def part(subset: str, **match) -> dict:
        destination = {"host": "web", "subset": subset, "port": {"number": 9000}}
        return {"match": [{"sniHosts": ["tls.example"], **match}], "route": [{"destination": destination}]}

    for match, subset in (
        ({"port": 8443}, "v2"),
        ({"port": 8444}, "v1"),
        ({"sourceLabels": {"app": "client"}, "sourceNamespace": "default"}, "v2"),
        ({"sourceLabels": {"app": "spare"}}, "v1"),
        ({"sourceNamespace": "other"}, "v1"),
        ({"gateways": ["mesh"]}, "v2"),
        ({"destinationSubnets": [f"{where}/32"]}, "v2"),
        # istiod carries subnets over to the rules that follow
        ({"destinationSubnets": ["10.250.0.0/16"]}, ""),
    ):
        spec = {"hosts": ["tls.example"], "tls": [part("v2", **match), part("v1", port=8443)]}
        mesh.apply(together(known, rule(), manifest("VirtualService", "tls", spec)))
        mesh.clear_logs()
        mesh.request(CLIENT, "https://tls.example:8443/")
        (line,) = mesh.access_log(CLIENT, at_least=1)
        wanted = f"outbound|9000|{subset}|web.default.svc.cluster.local" if subset else "PassthroughCluster"
        assert line["upstream_cluster"] == wanted, match


@pytest.mark.proves("VirtualService.spec.tls[].route[].weight")
def test_the_programs_own_tls_is_split_by_weight(mesh):
    ends = [{"address": address(mesh, "web-v1"), "ports": {"tls": 9000}}]
    ports = [{"number": 8443, "name": "tls", "protocol": "TLS"}]
    known = entry("tls.example", ports=ports, resolution="STATIC", location="MESH_EXTERNAL", endpoints=ends)
    split = [
        {"destination": {"host": "web", "subset": s, "port": {"number": 9000}}, "weight": w}
        for s, w in (("v1", 30), ("v2", 70))
    ]
    spec = {"hosts": ["tls.example"], "tls": [{"match": [{"sniHosts": ["tls.example"]}], "route": split}]}
    mesh.apply(together(known, rule(), manifest("VirtualService", "tls", spec)))
    mesh.clear_logs()
    mesh.request(CLIENT, "https://tls.example:8443/", n=100)
    ways = Counter(line["upstream_cluster"].split("|")[2] for line in mesh.access_log(CLIENT, at_least=100))
    assert ways.keys() == {"v1", "v2"}
    assert 8 <= ways["v1"] <= 52  # 30 expected, by chance less than one in a million runs falls outside
