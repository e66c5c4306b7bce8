"""Tokens and policies at a live gateway, where callers come from outside the mesh."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from harness import MeshHarness
from security_cases import jwks, sign

INVENTORY = """
id: front
nodes: [{name: one}]
services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]
workloads:
  - {service: web, node: one}
  - {service: client, node: one, program: none}
gateways:
  - name: front
    node: one
    labels: {istio: ingressgateway, gateway.networking.k8s.io/gateway-name: front}
"""
ROUTES = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front, namespace: istio-system}
spec:
  hosts: ["*"]
  gateways: [front]
  http: [{route: [{destination: {host: web.default.svc.cluster.local}}]}]
---
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    with MeshHarness.from_inventory(INVENTORY) as running:
        yield running


def security(kind: str, spec: str) -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: front, namespace: istio-system}}
spec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, {spec}}}
---
"""


def status(mesh: MeshHarness, path: str = "/", **headers: str) -> int:
    """Of a request from outside: past the client's sidecar, to the gateway's address."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    address = str(mesh.topology.workload("front").address)
    (answer,) = mesh.request("client-v1", f"http://shop.example{path}", headers=named, connect=address, user=1337)
    return answer.status


def bearer(signed: str = "good", **claims: object) -> str:
    return f"Bearer {sign(claims, time.time(), signed)}"


def test_tokens_are_verified_at_the_gateway(mesh: MeshHarness) -> None:
    rule = f"jwtRules: [{{issuer: one@example, jwks: '{jwks()}'}}]"
    required = "rules: [{from: [{source: {requestPrincipals: ['*']}}], to: [{operation: {paths: ['/shop*']}}]}]"
    mesh.apply(ROUTES + security("RequestAuthentication", rule) + security("AuthorizationPolicy", required))
    assert status(mesh, "/shop", authorization=bearer()) == 200
    assert status(mesh, "/shop") == 403
    assert status(mesh, "/other", authorization=bearer()) == 403
    assert status(mesh, "/shop", authorization=bearer("stranger")) == 401
    assert status(mesh, "/shop", authorization=bearer(exp=-600)) == 401


def test_a_caller_from_outside_is_known_by_its_address(mesh: MeshHarness) -> None:
    client = mesh.topology.workload("client-v1").address
    for block, expected in ((f"{client}/32", 200), ("192.0.2.0/24", 403)):
        for field in ("ipBlocks", "remoteIpBlocks"):
            rule = f"rules: [{{from: [{{source: {{{field}: ['{block}']}}}}]}}]"
            mesh.apply(ROUTES + security("AuthorizationPolicy", rule))
            assert status(mesh) == expected, (field, block)
            # what the caller claims of its way is not believed
            assert status(mesh, x_forwarded_for="192.0.2.1") == expected, (field, block)


def test_hosts_are_told_apart_at_the_gateway(mesh: MeshHarness) -> None:
    mesh.apply(
        ROUTES
        + security("AuthorizationPolicy", "action: DENY, rules: [{to: [{operation: {hosts: [shop.example]}}]}]")
    )
    assert status(mesh) == 403
    assert status(mesh, host="else.example") == 200


def test_a_workload_behind_it_sees_the_gateways_identity(mesh: MeshHarness) -> None:
    gateway = mesh.topology.workload("front")
    for account, expected in ((gateway.service_account, 200), ("nobody", 403)):
        principal = f"cluster.local/ns/istio-system/sa/{account}"
        policy = security("AuthorizationPolicy", f"rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]")
        mesh.apply(
            ROUTES
            + policy.replace("istio: ingressgateway", "app: web").replace(
                "namespace: istio-system", "namespace: default"
            )
        )
        assert status(mesh) == expected


@pytest.mark.proves("AuthorizationPolicy.spec.targetRef.group", "AuthorizationPolicy.spec.targetRef.kind")
@pytest.mark.proves("AuthorizationPolicy.spec.targetRef.name", "AuthorizationPolicy.spec.targetRefs[].group")
@pytest.mark.proves("AuthorizationPolicy.spec.targetRefs[].kind", "AuthorizationPolicy.spec.targetRefs[].name")
@pytest.mark.proves("RequestAuthentication.spec.targetRef.group", "RequestAuthentication.spec.targetRef.kind")
@pytest.mark.proves("RequestAuthentication.spec.targetRef.name", "RequestAuthentication.spec.targetRefs[].group")
@pytest.mark.proves("RequestAuthentication.spec.targetRefs[].kind", "RequestAuthentication.spec.targetRefs[].name")
def test_target_refs_pick_the_gateway_by_its_name(mesh: MeshHarness) -> None:
    for name, without, bad in (("front", 403, 401), ("back", 200, 200)):
        target = f"{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}"
        for reference in (f"targetRef: {target}", f"targetRefs: [{target}]"):
            tokens = f"{reference}, jwtRules: [{{issuer: one@example, jwks: '{jwks()}'}}]"
            required = f"{reference}, rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]"
            resources = security("RequestAuthentication", tokens) + security("AuthorizationPolicy", required)
            mesh.apply(ROUTES + resources.replace("selector: {matchLabels: {istio: ingressgateway}}, ", ""))
            assert status(mesh) == without, reference
            assert status(mesh, authorization=bearer()) == 200
            assert status(mesh, authorization=bearer("stranger")) == bad, reference
