"""The mesh that tests of traffic rules run on, and short ways to say what they want of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from harness import MeshHarness, Response

INVENTORY = """
id: traffic
nodes:
  - {name: one, locality: north/a}
  - {name: two, locality: north/b}
services:
  - name: web
    ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-echo, port: 9000}]
  - {name: spare, ports: [{name: http, port: 80, targetPort: 8080}]}
  - {name: far, namespace: other, ports: [{name: http, port: 80, targetPort: 8080}]}
workloads:
  - {service: web, version: v1, node: one, serviceAccount: web}
  - {service: web, version: v2, node: two, serviceAccount: web}
  - {service: spare, version: v1, node: two, serviceAccount: spare}
  - {service: far, version: v1, namespace: other, node: two, serviceAccount: far}
  - {service: client, version: v1, node: one, serviceAccount: client, program: none}
gateways:
  - {name: gateway, node: one, ports: [{name: http, port: 80}, {name: https, port: 443}]}
"""
CLIENT, GATEWAY = "client-v1", "gateway"


def manifest(kind: str, name: str, spec: dict[str, Any], namespace: str = "default") -> str:
    """A resource as YAML text."""
    security = "security.istio.io"
    group = {"PeerAuthentication": security, "AuthorizationPolicy": security, "Telemetry": "telemetry.istio.io"}
    return yaml.safe_dump(
        {
            "apiVersion": f"{group.get(kind, 'networking.istio.io')}/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )


def routes(*http: dict[str, Any], host: str = "web", **more: Any) -> str:
    """A VirtualService for a host."""
    return manifest("VirtualService", host.replace("*", "any"), {"hosts": [host], "http": list(http), **more})


def rule(policy: dict[str, Any] | None = None, host: str = "web", **more: Any) -> str:
    """A DestinationRule for a host, with a subset for each version."""
    subsets = [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]
    policy = {"loadBalancer": {"simple": "ROUND_ROBIN"}, **(policy or {})}
    return manifest("DestinationRule", host, {"host": host, "trafficPolicy": policy, "subsets": subsets, **more})


def to(subset: str = "", weight: int = 0, host: str = "web", **more: Any) -> dict[str, Any]:
    """A destination of a route."""
    destination: dict[str, Any] = {"host": host, "port": {"number": 80}} | ({"subset": subset} if subset else {})
    return {"destination": destination, **({"weight": weight} if weight else {}), **more}


def together(*texts: str) -> str:
    """Several manifests in one text."""
    return "\n---\n".join(texts)


def versions(answers: list[Response]) -> Counter[str]:
    """How many answers came from each version; the status stands for what has none."""
    return Counter(a.version or str(a.status) for a in answers)


def said(answer: Response) -> dict[str, str]:
    """The headers that the program got."""
    return dict(answer.json()["headers"])


@contextmanager
def behaving(mesh: MeshHarness, workload: str, **how: Any) -> Iterator[None]:
    """The workload's program behaves like that while the context is open."""
    mesh.control(workload, **how)
    try:
        yield
    finally:
        mesh.control(workload)


def echo(mesh: MeshHarness, address: str, port: int, user: int = 0, caller: str = CLIENT) -> str:
    """Who answers a plain connection from a workload's namespace."""
    code = (
        f"import socket; s = socket.create_connection(({address!r}, {port}), 5); s.settimeout(5)\n"
        "print(s.recv(100).decode().strip())"
    )
    return mesh.command(caller, [sys.executable, "-ISE", "-c", code], user=user).decode().strip()


def at_edge(mesh: MeshHarness, url: str, **how):
    """Ask the gateway from outside of the mesh."""
    address = str(mesh.topology.workload(GATEWAY).address)
    return mesh.request(CLIENT, url, connect=address, user=1337, **how)


def started() -> Iterator[MeshHarness]:
    """A running mesh."""
    with MeshHarness.from_inventory(INVENTORY) as mesh:
        yield mesh
