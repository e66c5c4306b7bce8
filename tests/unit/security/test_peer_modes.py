"""PeerAuthentication: the narrowest scope wins, UNSET inherits, of two the first by name counts."""

from __future__ import annotations

import pytest
import security_cases

from testbed.compiler.security import PeerMode, accepts_mutual_tls, peer_mode
from testbed.documents import parse
from testbed.model.reading import read_inventory, topology_of
from testbed.resources import load

TOPOLOGY = topology_of(read_inventory(security_cases.inventory(), "inventory.yaml"))
WORKLOAD = next(w for w in TOPOLOGY.workloads if w.labels["app"] == "s0")


def policy(name: str, mode: str = "", namespace: str = "default", app: str = "", ports: str = "") -> str:
    spec = [f"selector: {{matchLabels: {{app: {app}}}}}"] if app else []
    spec += [f"mtls: {{mode: {mode}}}"] if mode else []
    spec += [f"portLevelMtls: {ports}"] if ports else []
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{", ".join(spec)}}}
---"""


def mode(*policies: str, port: int = 8080) -> PeerMode:
    return peer_mode(load(parse("".join(policies), "test.yaml")), WORKLOAD, port, TOPOLOGY)


MESH = "istio-system"


def test_without_a_policy_a_port_takes_both() -> None:
    assert mode() is PeerMode.PERMISSIVE


@pytest.mark.proves("PeerAuthentication.spec.mtls.mode", "PeerAuthentication.spec.selector.matchLabels{}")
def test_the_narrowest_scope_wins() -> None:
    mesh, namespace = policy("mesh", "STRICT", MESH), policy("all", "DISABLE")
    workload = policy("one", "PERMISSIVE", app="s0")
    assert mode(mesh) is PeerMode.STRICT
    assert mode(mesh, namespace) is PeerMode.DISABLE
    assert mode(mesh, namespace, workload) is PeerMode.PERMISSIVE
    assert mode(policy("other", "STRICT", app="s1")) is PeerMode.PERMISSIVE
    assert mode(policy("elsewhere", "STRICT", "other")) is PeerMode.PERMISSIVE


@pytest.mark.parametrize("unset", ["", "UNSET"])
def test_unset_takes_what_the_wider_scope_has(unset: str) -> None:
    strict = policy("mesh", "STRICT", MESH)
    assert mode(strict, policy("all", unset)) is PeerMode.STRICT
    assert mode(strict, policy("all", unset), policy("one", unset, app="s0")) is PeerMode.STRICT
    assert mode(policy("mesh", unset, MESH)) is PeerMode.PERMISSIVE


@pytest.mark.proves("PeerAuthentication.spec.portLevelMtls{}.mode")
def test_a_port_may_differ_from_its_workload() -> None:
    one = policy("one", "STRICT", app="s0", ports="{8080: {mode: DISABLE}, 8081: {mode: UNSET}}")
    assert mode(one) is PeerMode.DISABLE
    assert mode(one, port=8081) is PeerMode.STRICT
    assert mode(one, port=90) is PeerMode.STRICT


def test_of_two_policies_for_a_scope_the_first_by_name_counts() -> None:
    assert mode(policy("b", "STRICT"), policy("a", "DISABLE")) is PeerMode.DISABLE
    assert mode(policy("b", "STRICT", app="s0"), policy("a", "DISABLE", app="s0")) is PeerMode.DISABLE


def test_a_selector_in_the_root_namespace_selects_nobody() -> None:
    assert mode(policy("one", "STRICT", MESH, app="s0")) is PeerMode.PERMISSIVE


def test_only_disabled_ports_are_called_in_plaintext() -> None:
    resources = load(parse(policy("one", "STRICT", app="s0", ports="{8080: {mode: DISABLE}}"), "test.yaml"))
    assert not accepts_mutual_tls(resources, WORKLOAD, 8080, TOPOLOGY)
    assert accepts_mutual_tls(resources, WORKLOAD, 8081, TOPOLOGY)
