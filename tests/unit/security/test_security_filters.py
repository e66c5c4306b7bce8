"""Which filters stand in a chain, in which order, and what they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
import security_cases

from testbed.compiler.security import (
    ExtensionProvider,
    MeshConfig,
    SecurityInputs,
    security_http_filters,
    security_network_filters,
)
from testbed.compiler.simulator.proxy import unpack
from testbed.documents import parse
from testbed.model.reading import read_inventory, topology_of
from testbed.model.topology import MeshWorkload
from testbed.resources import ResourceSet, load

TOPOLOGY = topology_of(read_inventory(security_cases.inventory(), "inventory.yaml"))
WORKLOAD = next(w for w in TOPOLOGY.workloads if w.labels["app"] == "s0")
HOST = "s1.default.svc.cluster.local"
ASKED = MeshConfig(
    extension_providers=(
        ExtensionProvider.model_validate(
            {
                "name": "asker",
                "envoyExtAuthzGrpc": {"service": HOST, "port": 80, "timeout": "2s", "statusOnError": "503"},
            }
        ),
        ExtensionProvider.model_validate(
            {
                "name": "web",
                "envoyExtAuthzHttp": {
                    "service": f"default/{HOST}",
                    "port": 80,
                    "pathPrefix": "/check",
                    "includeRequestHeadersInCheck": ["x-*"],
                    "headersToUpstreamOnAllow": ["x-user"],
                },
            }
        ),
    )
)


def resources(*policies: str, namespace: str = "default") -> ResourceSet:
    text = ""
    for number, policy in enumerate(policies):
        text += f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p{number}, namespace: {namespace}}}
spec: {policy}
---"""
    return load(parse(text, "test.yaml"))


def http(found: ResourceSet, workload: MeshWorkload = WORKLOAD, mesh: MeshConfig = ASKED) -> list[Any]:
    filters = security_http_filters(found, workload, TOPOLOGY, SecurityInputs(mesh))
    return [unpack(f.typed_config) for f in filters]


def network(found: ResourceSet, mesh: MeshConfig = ASKED) -> list[Any]:
    return [
        unpack(f.typed_config) for f in security_network_filters(found, WORKLOAD, TOPOLOGY, SecurityInputs(mesh))
    ]


def test_custom_comes_first_then_audit_deny_allow() -> None:
    found = resources(
        "{}",
        "{action: DENY, rules: [{}]}",
        "{action: CUSTOM, provider: {name: asker}, rules: [{}]}",
        "{action: AUDIT, rules: [{}]}",
    )
    shadow, asking, audit, deny, allow = http(found)
    assert "istio-ext-authz-asker-ns[default]-policy[p2]-rule[0]" in shadow.shadow_rules.policies
    assert asking.grpc_service.envoy_grpc.cluster_name == f"outbound|80||{HOST}"
    assert asking.grpc_service.timeout.seconds == 2
    assert asking.status_on_error.code == 503
    assert [r.rules.action for r in (audit, deny, allow)] == [2, 1, 0]
    assert list(deny.rules.policies) == ["ns[default]-policy[p1]-rule[0]"]


def test_an_http_authorizer_gets_the_headers_that_are_named() -> None:
    _, asking = http(resources("{action: CUSTOM, provider: {name: web}, rules: [{}]}"))
    assert asking.http_service.path_prefix == "/check"
    assert asking.http_service.server_uri.timeout.seconds == 600
    assert asking.allowed_headers.patterns[0].prefix == "x-"
    assert asking.http_service.authorization_response.allowed_upstream_headers.patterns[0].exact == "x-user"


def test_two_authorizers_for_one_workload_deny_what_they_match() -> None:
    found = resources(
        "{action: CUSTOM, provider: {name: asker}, rules: [{}]}",
        "{action: CUSTOM, provider: {name: web}, rules: [{}]}",
    )
    assert [f.DESCRIPTOR.name for f in http(found)] == ["RBAC", "RBAC"]
    assert all(f.rules.action == 1 and len(f.rules.policies) == 1 for f in http(found))


def test_an_authorizer_that_the_mesh_does_not_know_denies() -> None:
    mesh = MeshConfig(
        extension_providers=(
            ExtensionProvider.model_validate(
                {"name": "asker", "envoyExtAuthzGrpc": {"service": "gone.example", "port": 80}}
            ),
        )
    )
    (deny,) = http(resources("{action: CUSTOM, provider: {name: asker}, rules: [{}]}"), mesh=mesh)
    assert "-deny-due-to-bad-CUSTOM-action" in next(iter(deny.rules.policies))


def test_on_tcp_an_allow_rule_with_http_attributes_is_left_out() -> None:
    (allow,) = network(
        resources("{rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['90']}}]}]}")
    )
    assert list(allow.rules.policies) == ["ns[default]-policy[p0]-rule[1]"]


def test_on_tcp_a_deny_rule_goes_on_without_its_http_attributes() -> None:
    (deny,) = network(resources("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['90']}}]}]}"))
    (policy,) = deny.rules.policies.values()
    assert [r.WhichOneof("rule") for r in policy.permissions[0].and_rules.rules] == ["destination_port"]


def test_on_tcp_an_http_authorizer_is_left_out_and_a_grpc_one_asked() -> None:
    assert network(resources("{action: CUSTOM, provider: {name: web}, rules: [{}]}")) == []
    shadow, asking = network(resources("{action: CUSTOM, provider: {name: asker}, rules: [{}]}"))
    assert shadow.stat_prefix == asking.stat_prefix == "tcp."
    assert asking.filter_enabled_metadata.filter == "envoy.filters.network.rbac"


def test_a_policy_of_the_root_namespace_is_for_every_workload() -> None:
    assert len(http(resources("{}", namespace="istio-system"))) == 1
    assert http(resources("{}", namespace="other")) == []


@pytest.mark.proves("AuthorizationPolicy.spec.targetRefs[].name", "AuthorizationPolicy.spec.targetRefs[].kind")
@pytest.mark.proves("AuthorizationPolicy.spec.targetRefs[].group", "AuthorizationPolicy.spec.targetRef.name")
def test_target_refs_pick_a_gateway_and_nothing_else() -> None:
    target = "{group: gateway.networking.k8s.io, kind: Gateway, name: front}"
    gateway = MeshWorkload(
        "front", "default", "front", {"gateway.networking.k8s.io/gateway-name": "front"}, WORKLOAD.address, "one"
    )
    for spec in (f"{{targetRefs: [{target}]}}", f"{{targetRef: {target}}}"):
        found = resources(spec)
        assert len(http(found, gateway)) == 1
        assert http(found) == []
        assert http(resources(spec.replace("front", "back")), gateway) == []


def test_cluster_local_stands_for_the_meshs_own_trust_domain() -> None:
    from dataclasses import replace

    found = resources("{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}]}")
    topology = replace(TOPOLOGY, trust_domain="mesh.example")
    (allow,) = [unpack(f.typed_config) for f in security_http_filters(found, WORKLOAD, topology)]
    assert "spiffe://mesh.example/ns/a/sa/b" in str(allow)


def test_keys_behind_an_address_are_fetched_by_envoy_when_the_mesh_knows_the_host() -> None:
    text = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: jwt, namespace: default}}
spec: {{jwtRules: [{{issuer: a, jwksUri: 'http://{HOST}/keys', timeout: 7s}}]}}
"""
    (tokens,) = http(load(parse(text, "test.yaml")))
    remote = tokens.providers["origins-0"].remote_jwks
    assert remote.http_uri.cluster == f"outbound|80||{HOST}"
    assert remote.http_uri.timeout.seconds == 7
    given = SecurityInputs(jwks={f"http://{HOST}/keys": security_cases.jwks()})
    (fetched,) = security_http_filters(load(parse(text, "test.yaml")), WORKLOAD, TOPOLOGY, given)
    assert unpack(fetched.typed_config).providers["origins-0"].local_jwks.inline_string == security_cases.jwks()


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": [{"kty": "RSA", "n": "+", "e": "AQAB"}]}',
        '{"keys": [{"kty": "EC"}]}',
    ],
)
def test_keys_that_envoy_would_reject_are_nobodys(keys: str) -> None:
    from testbed.compiler.security.tokens import is_usable

    assert not is_usable(keys)


def test_one_key_that_envoy_can_read_is_enough() -> None:
    from testbed.compiler.security.tokens import is_usable

    (good,) = json.loads(security_cases.jwks())["keys"]
    assert is_usable(json.dumps({"keys": [{"kty": "RSA", "n": "+", "e": "AQAB"}, good]}))
