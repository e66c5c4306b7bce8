"""Mutual TLS between live sidecars: what each mode takes, port by port, and what goes over the wire."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import security_cases
from harness import MeshHarness

CLIENT = Path(__file__).with_name("security_client.py")
# The client speaks first: Envoy asks TCP policies when the first bytes come, and tells plaintext from TLS by them.
EXCHANGE = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
    s.sendall(b'hello')
    said = b''
    while not said.endswith(b'hello'):
        data = s.recv(100)
        if not data:
            break
        said += data
    else:
        print(said.decode().split()[0])
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    with MeshHarness.from_inventory(security_cases.inventory()) as running:
        yield running


def peers(spec: str, name: str = "peers", namespace: str = "default") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
---
"""


def policy(spec: str) -> str:
    return peers(spec).replace("PeerAuthentication", "AuthorizationPolicy")


def status(mesh: MeshHarness, port: int = 80, path: str = "/") -> int:
    """Of a request through the caller's sidecar."""
    return _send(mesh, f"http://s0.default:{port}{path}", 0)


def past_sidecar(mesh: MeshHarness, port: int = 8080, path: str = "/") -> int:
    """Of a plaintext request straight to the workload."""
    return _send(mesh, f"http://{mesh.topology.workload('s0-v1').address}:{port}{path}", 1337)


def _send(mesh: MeshHarness, url: str, user: int) -> int:
    job = json.dumps([{"url": url, "method": "GET", "headers": {}}]).encode()
    (answer,) = json.loads(mesh.command("alpha-v1", [sys.executable, "-ISE", str(CLIENT)], stdin=job, user=user))
    return answer["status"]


def answered_by(mesh: MeshHarness, host: str, user: int = 0) -> str:
    """Who answers on the TCP port; empty when the connection is closed."""
    argv = [sys.executable, "-ISE", "-c", f"try:\n exec({EXCHANGE!r})\nexcept OSError: pass", host, "90"]
    return mesh.command("alpha-v1", argv, user=user).decode().strip()


def test_permissive_takes_both(mesh: MeshHarness) -> None:
    mesh.apply("")
    assert status(mesh) == 200
    assert past_sidecar(mesh) == 200


@pytest.mark.proves("PeerAuthentication.spec.mtls.mode")
def test_strict_refuses_plaintext(mesh: MeshHarness) -> None:
    mesh.apply(peers("{mtls: {mode: STRICT}}"))
    assert status(mesh) == 200
    assert past_sidecar(mesh) == 0
    assert past_sidecar(mesh, 8081) == 0


def test_disable_takes_plaintext_only_and_callers_know_it(mesh: MeshHarness) -> None:
    mesh.apply(peers("{mtls: {mode: DISABLE}}"))
    assert status(mesh) == 200
    assert past_sidecar(mesh) == 200


def test_what_goes_over_the_wire(mesh: MeshHarness) -> None:
    for mode, readable in (("STRICT", False), ("PERMISSIVE", False), ("DISABLE", True)):
        mesh.apply(peers(f"{{mtls: {{mode: {mode}}}}}"))
        with mesh.capture("s0-v1", "tcp", "port", "8080") as capture:
            assert status(mesh, path="/a-path-that-stands-out") == 200
        assert (b"a-path-that-stands-out" in capture.payload()) is readable, mode


@pytest.mark.proves(
    "PeerAuthentication.spec.portLevelMtls{}.mode", "PeerAuthentication.spec.selector.matchLabels{}"
)
def test_a_port_may_differ(mesh: MeshHarness) -> None:
    mesh.apply(
        peers("{selector: {matchLabels: {app: s0}}, mtls: {mode: STRICT}, portLevelMtls: {8081: {mode: DISABLE}}}")
    )
    assert (status(mesh), past_sidecar(mesh)) == (200, 0)
    assert (status(mesh, 81), past_sidecar(mesh, 8081)) == (200, 200)
    mesh.apply(peers("{selector: {matchLabels: {app: s0}}, portLevelMtls: {8081: {mode: STRICT}}}"))
    assert (status(mesh), past_sidecar(mesh)) == (200, 200)
    assert (status(mesh, 81), past_sidecar(mesh, 8081)) == (200, 0)


def test_a_namespace_may_differ_from_the_mesh(mesh: MeshHarness) -> None:
    strict = peers("{mtls: {mode: STRICT}}", "mesh", "istio-system")
    mesh.apply(strict)
    assert past_sidecar(mesh) == 0
    mesh.apply(strict + peers("{mtls: {mode: PERMISSIVE}}"))
    assert past_sidecar(mesh) == 200


def test_a_caller_that_is_told_to_speak_plaintext_fails_under_strict(mesh: MeshHarness) -> None:
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s0, namespace: default}
spec: {host: s0.default.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}
---
"""
    mesh.apply(peers("{mtls: {mode: STRICT}}") + rule)
    assert status(mesh) == 503
    mesh.apply(peers("{mtls: {mode: PERMISSIVE}}") + rule)
    assert status(mesh) == 200


def test_tcp_ports_keep_to_the_mode_as_well(mesh: MeshHarness) -> None:
    address = str(mesh.topology.workload("s0-v1").address)
    for mode, plaintext in (("STRICT", ""), ("PERMISSIVE", "s0-v1"), ("DISABLE", "s0-v1")):
        mesh.apply(peers(f"{{mtls: {{mode: {mode}}}}}"))
        assert answered_by(mesh, "s0.default") == "s0-v1", mode
        assert answered_by(mesh, address, user=1337) == plaintext, mode


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        ("{rules: [{from: [{source: {principals: ['*/sa/alpha']}}]}]}", "s0-v1"),
        ("{rules: [{from: [{source: {principals: ['*/sa/beta']}}]}]}", ""),
        ("{rules: [{to: [{operation: {ports: ['90']}}]}]}", "s0-v1"),
        ("{rules: [{to: [{operation: {methods: [GET]}}]}]}", ""),
        ("{action: DENY, rules: [{to: [{operation: {ports: ['90'], methods: [GET]}}]}]}", ""),
        ("{action: DENY, rules: [{to: [{operation: {ports: ['91'], methods: [GET]}}]}]}", "s0-v1"),
        ("{rules: [{when: [{key: connection.sni, values: ['outbound_.90_.*']}]}]}", "s0-v1"),
        ("{}", ""),
    ],
)
def test_policies_on_tcp(mesh: MeshHarness, spec: str, answer: str) -> None:
    mesh.apply(policy(spec))
    assert answered_by(mesh, "s0.default") == answer


def test_a_policy_of_the_root_namespace_holds_for_all(mesh: MeshHarness) -> None:
    everywhere = policy("{rules: [{to: [{operation: {paths: [/open]}}]}]}").replace("default", "istio-system")
    mesh.apply(everywhere)
    assert (status(mesh, path="/open"), status(mesh, path="/")) == (200, 403)
