"""CUSTOM policies: live Envoys ask an external authorizer, over HTTP and over gRPC, and do what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import MeshHarness, inventory_topology
from security_cases import jwks, sign

from testbed.compiler.security import MeshConfig, SecurityInputs
from testbed.waiting import NotYet, wait_until

HERE = Path(__file__).parent
INVENTORY = """
id: custom
nodes: [{name: one}]
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}]}
  - {name: judge, ports: [{name: grpc, port: 9191}]}
  - {name: asked, ports: [{name: http, port: 80, targetPort: 8080}]}
workloads:
  - {service: web, node: one}
  - {service: asked, node: one}
  - {service: judge, node: one, program: none}
  - {service: client, node: one, program: none}
"""
PROVIDERS = MeshConfig.model_validate(
    {
        "extensionProviders": [
            {
                "name": "over-grpc",
                "envoyExtAuthzGrpc": {"service": "judge.default.svc.cluster.local", "port": 9191, "timeout": "2s"},
            },
            {
                "name": "over-http",
                "envoyExtAuthzHttp": {
                    "service": "asked.default.svc.cluster.local",
                    "port": 80,
                    "pathPrefix": "/check",
                    "includeRequestHeadersInCheck": ["x-key"],
                    "headersToUpstreamOnAllow": ["x-judged"],
                    "headersToDownstreamOnDeny": ["x-why"],
                },
            },
        ]
    }
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    _, topology = inventory_topology(INVENTORY)
    programs = {"judge-v1": "none", "client-v1": "none"}
    with MeshHarness(topology, programs=programs, security=SecurityInputs(mesh=PROVIDERS)) as running:
        inside = ["ip", "netns", "exec", running.network.namespace("judge-v1")]
        argv = [*inside, sys.executable, str(HERE / "ext_authz_server.py"), "9191"]
        with subprocess.Popen(argv) as judge:
            try:
                wait_until("the authorizer listens", lambda: _listening(running), limit=20, interval=0.1)
                yield running
            finally:
                judge.terminate()


def _listening(mesh: MeshHarness) -> None:
    if b":9191" not in mesh.command("judge-v1", ["ss", "-Hltn"]):
        raise NotYet("nothing on port 9191")


def policy(provider: str, rule: str = "{to: [{operation: {paths: [/ask*]}}]}") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask, namespace: default}}
spec: {{action: CUSTOM, provider: {{name: {provider}}}, selector: {{matchLabels: {{app: web}}}}, rules: [{rule}]}}
"""


@pytest.mark.proves("AuthorizationPolicy.spec.provider.name", "AuthorizationPolicy.spec.action")
def test_grpc_decides_about_what_the_rules_match(mesh: MeshHarness) -> None:
    mesh.apply(policy("over-grpc"))
    (allowed,) = mesh.request("client-v1", "http://web/ask", headers={"x-let-in": "yes"})
    assert allowed.status == 200
    assert ["x-judged", "by-grpc"] in allowed.json()["headers"]
    assert mesh.request("client-v1", "http://web/ask")[0].status == 418
    assert mesh.request("client-v1", "http://web/other")[0].status == 200


def test_http_decides_about_what_the_rules_match(mesh: MeshHarness) -> None:
    mesh.apply(policy("over-http"))
    mesh.control("asked-v1", status=200, headers={"x-judged": "by-http"})
    (allowed,) = mesh.request("client-v1", "http://web/ask/me", headers={"x-key": "a", "x-other": "b"})
    assert allowed.status == 200
    assert ["x-judged", "by-http"] in allowed.json()["headers"]
    check = mesh.backend_log("asked-v1")[-1]
    names = dict(check["headers"])
    assert check["path"] == "/check/ask/me"
    assert names["x-key"] == "a"
    assert "x-other" not in names
    mesh.control("asked-v1", status=401, headers={"x-why": "because"})
    (denied,) = mesh.request("client-v1", "http://web/ask/me")
    assert (denied.status, denied.headers["x-why"]) == (401, "because")
    assert mesh.request("client-v1", "http://web/other")[0].status == 200


def test_custom_comes_before_allow_and_both_must_agree(mesh: MeshHarness) -> None:
    allow = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: default}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
"""
    mesh.apply(policy("over-grpc") + allow)
    let_in = {"x-let-in": "yes"}
    assert mesh.request("client-v1", "http://web/ask", headers=let_in)[0].status == 200
    assert mesh.request("client-v1", "http://web/ask", "POST", headers=let_in)[0].status == 403
    assert mesh.request("client-v1", "http://web/ask", "POST")[0].status == 418


def test_grpc_decides_about_connections(mesh: MeshHarness) -> None:
    mesh.apply(policy("over-grpc", "{to: [{operation: {ports: ['90']}}]}"))
    script = "import socket,sys; s=socket.create_connection(('web', 90), 5); print(s.recv(99).decode())"
    assert b"web-v1" in mesh.command("client-v1", [sys.executable, "-c", script])


def test_a_provider_that_nobody_defined_denies(mesh: MeshHarness) -> None:
    mesh.apply(policy("nobody"))
    assert mesh.request("client-v1", "http://web/ask", headers={"x-let-in": "yes"})[0].status == 403
    assert json.loads(mesh.request("client-v1", "http://web/other")[0].body)["workload"] == "web-v1"


@pytest.mark.proves(
    "RequestAuthentication.spec.jwtRules[].jwksUri", "RequestAuthentication.spec.jwtRules[].timeout"
)
def test_keys_of_a_service_in_the_mesh_are_fetched_by_envoy(mesh: MeshHarness) -> None:
    mesh.control("asked-v1", body=jwks())
    mesh.apply("""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: fetched, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  jwtRules:
    - {issuer: one@example, jwksUri: "http://asked.default.svc.cluster.local/keys", timeout: 3s}
""")
    for signed, status in (("good", 200), ("stranger", 401), ("none", 401)):
        bearer = {"authorization": f"Bearer {sign({}, time.time(), signed)}"}
        assert mesh.request("client-v1", "http://web/", headers=bearer)[0].status == status, signed
    assert mesh.backend_log("asked-v1")[-1]["path"] == "/keys"
