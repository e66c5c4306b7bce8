"""Where a request would go, and which resource, file and line decided it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from testbed.compiler import compile_mesh
from testbed.compiler.simulator import Explanation, explain, parse_request
from testbed.documents import parse
from testbed.errors import BadInput
from testbed.model.reading import read_inventory, topology_of
from testbed.resources import load

TOPOLOGY = topology_of(
    read_inventory(
        """
id: explained
nodes: [{name: one}]
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}, {name: tls, port: 443}]}
workloads:
  - {service: web, version: v1, node: one}
  - {service: web, version: v2, node: one}
  - {service: client, node: one, program: none}
gateways:
  - {name: front, node: one}
""",
        "inventory.yaml",
    )
)
RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec:
  host: web
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
"""
SERVICE = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  hosts: [web]
  http:
    - match: [{uri: {prefix: /old}}]
      redirect: {uri: /new}
    - match: [{uri: {prefix: /api/}}]
      rewrite: {uri: /}
      timeout: 3s
      retries: {attempts: 5, retryOn: 5xx}
      route:
        - {destination: {host: web, subset: v1}, weight: 75}
        - {destination: {host: web, subset: v2}, weight: 25}
    - match: [{uri: {prefix: /broken}}]
      fault: {abort: {httpStatus: 500, percentage: {value: 20}}}
      route: [{destination: {host: web, subset: v1}}]
    - match: [{uri: {prefix: /gone}}]
      route: [{destination: {host: web, subset: v9}}]
"""


def told(url: str, resources: str = RULES + SERVICE, source: str = "client-v1", *headers: str) -> Explanation:
    found = load(parse(resources, "web.yaml"))
    return explain(compile_mesh(found, TOPOLOGY), TOPOLOGY, found, parse_request(source, url, headers=headers))


def place(text: str, of: str = RULES + SERVICE) -> str:
    """``file:line`` of the line that holds a text."""
    return f"web.yaml:{next(n for n, line in enumerate(of.splitlines(), 1) if text in line)}:"


def decision(explanation: Explanation, what: str) -> str:
    return next(str(d) for h in explanation.outcomes[0].hops for d in h.decisions if d.what == what)


def test_weights_are_the_likelihoods_of_workloads() -> None:
    found = told("http://web/api/x")
    assert found.workloads() == {"web-v1": Fraction(3, 4), "web-v2": Fraction(1, 4)}
    assert "gets GET /x on port 8080" in found.outcomes[0].reason


def test_a_decision_names_its_file_and_line() -> None:
    found = told("http://web/api/x")
    assert f"({place('/api/')}15: spec.http[1].match[0])" in decision(found, "route")
    assert "timeout 3 s, 5 retries on 5xx" in decision(found, "route")
    assert "mutual TLS" in decision(found, "cluster")
    assert f"{place('name: v1')}7: spec.subsets[0]" in decision(found, "cluster")


def test_faults_split_what_can_happen() -> None:
    found = told("http://web/broken")
    assert found.statuses() == {None: Fraction(4, 5), 500: Fraction(1, 5)}


def test_a_redirect_says_where_to() -> None:
    (outcome,) = told("http://web/old/x").outcomes
    assert (outcome.status, outcome.reason) == (301, "redirected to http://web/new")


def test_no_route_and_an_unknown_subset() -> None:
    assert told("http://web/else").statuses() == {404: 1}
    (outcome,) = told("http://web/gone").outcomes
    assert (outcome.status, outcome.answered_by) == (503, "the proxy of client-v1")


def test_a_denial_names_the_policy_and_its_rule() -> None:
    policy = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: default}
spec:
  action: DENY
  rules:
    - to: [{operation: {paths: [/none]}}]
    - from: [{source: {namespaces: [default]}}]
"""
    text = RULES + SERVICE + policy
    found = told("http://web/api/x", text)
    assert found.statuses() == {403: 1}
    assert {o.answered_by for o in found.outcomes} == {"the proxy of web-v1", "the proxy of web-v2"}
    decided = found.outcomes[0].decided_by
    assert decided is not None
    where = place("from: [{source", text)
    assert str(decided.origin) == f"AuthorizationPolicy default/closed ({where}7: spec.rules[1])"


def test_what_no_allow_rule_matches_names_the_first_that_was_asked() -> None:
    policy = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open, namespace: default}
spec: {rules: [{to: [{operation: {paths: [/open]}}]}]}
"""
    assert "AuthorizationPolicy default/open (web.yaml:5:" in decision(told("http://web/", policy), "policy")


def test_a_strict_port_refuses_a_caller_that_speaks_plaintext() -> None:
    strict = """---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec: {host: web, trafficPolicy: {tls: {mode: DISABLE}}}
"""
    found = told("http://web/", strict)
    assert found.statuses() == {503: 1}
    assert "no filter chain of virtualInbound takes plaintext" in found.outcomes[0].reason


def test_tcp_and_the_programs_own_tls_go_through_as_connections() -> None:
    assert set(told("tcp://web:90").workloads()) == {"web-v1", "web-v2"}
    assert set(told("https://web").workloads()) == {"web-v1", "web-v2"}


def test_names_that_nobody_knows_and_ports_that_nobody_has() -> None:
    (outcome,) = told("http://nowhere/").outcomes
    assert "no name that client-v1 can resolve" in outcome.reason
    assert told("http://web:81/").statuses() == {0: 1}
    (outcome,) = told("http://example.com/").outcomes
    assert (outcome.status, outcome.reason) == (None, "it lies outside the mesh")
    assert outcome.cluster == "PassthroughCluster"


def test_a_gateway_is_asked_from_outside() -> None:
    gateway = """---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: istio-system}
spec:
  hosts: [shop.example]
  gateways: [front]
  http: [{route: [{destination: {host: web.default.svc.cluster.local, subset: v2, port: {number: 80}}}]}]
"""
    assert told("http://shop.example/", RULES + gateway, "front").workloads() == {"web-v2": 1}
    assert told("http://else.example/", RULES + gateway, "front").statuses() == {404: 1}
    assert told("http://front/", RULES + gateway, "front", "Host: shop.example").workloads() == {"web-v2": 1}


def test_a_workload_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match="there is no workload 'gone'"):
        told("http://web/", source="gone")


def test_the_same_in_lines_and_in_json() -> None:
    found = told("http://web/api/x")
    lines = list(found.lines())
    assert lines[0] == "GET http://web/api/x from client-v1"
    assert "   75%  workload web-v1 answers: its program gets GET /x on port 8080" in lines
    plain = found.to_json()
    assert [o["probability"] for o in plain["outcomes"]] == [0.75, 0.25]
    route = next(d for d in plain["outcomes"][0]["hops"][0]["decisions"] if d["what"] == "route")
    assert f"{route['file']}:{route['line']}:" == place("/api/")
