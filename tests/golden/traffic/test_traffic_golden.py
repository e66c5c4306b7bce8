"""Resources in, a piece of some proxy's configuration out: one small case for each group of fields.

A case is ``<name>.yaml``: manifests, and comment lines that say what to show of the result::

    # show: client-v1 routes 9080 reviews.default.svc.cluster.local
    # show: client-v1 cluster outbound|9080|v1|reviews.default.svc.cluster.local
    # show: client-v1 endpoints outbound|9080||reviews.default.svc.cluster.local
    # show: ingressgateway listener 0.0.0.0_443

``<name>.json`` is what has to come out; ``TESTBED_WRITE=1`` writes it.
"""

from __future__ import annotations

import json
import os
import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from testbed.compiler import compile_mesh
from testbed.compiler.xdspaths import endpoints_path, routes_path
from testbed.documents import parse
from testbed.model.proxy import ProxyConfiguration
from testbed.model.topology import (
    Locality,
    MeshService,
    MeshWorkload,
    Protocol,
    ProxyKind,
    ServicePort,
    Topology,
)
from testbed.resources import load

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*.yaml"))
SHOW = re.compile(r"^# show: (\S+) (\S+) (.+)$", re.MULTILINE)

HTTP = ServicePort("http", 9080, Protocol.HTTP, 9080)
GRPC = ServicePort("grpc", 9090, Protocol.GRPC, 9090)
TCP = ServicePort("tcp-db", 3306, Protocol.TCP, 13306)
TLS = ServicePort("tls-db", 6443, Protocol.TLS, 6443)


def topology() -> Topology:
    """Reviews in two versions and zones, ratings in another namespace, a database, a client and a gateway."""

    def service(number: int, name: str, namespace: str, *ports: ServicePort) -> MeshService:
        return MeshService(name, namespace, IPv4Address(f"240.240.0.{number}"), ports, {"app": name})

    def workload(number: int, app: str, version: str, namespace: str, *ports: ServicePort) -> MeshWorkload:
        return MeshWorkload(
            f"{app}-{version}", namespace, f"{app}-account", {"app": app, "version": version},
            IPv4Address(f"10.78.1.{number}"), f"node-{number}", Locality("north", f"zone-{number}"),
            ports=ports, service=app,
        )  # fmt: skip

    return Topology(
        (
            service(1, "reviews", "default", HTTP, GRPC),
            service(2, "ratings", "other", HTTP),
            service(3, "database", "default", TCP, TLS),
        ),
        (
            workload(1, "reviews", "v1", "default", HTTP, GRPC),
            workload(2, "reviews", "v2", "default", HTTP, GRPC),
            workload(3, "ratings", "v1", "other", HTTP),
            workload(4, "database", "v1", "default", TCP, TLS),
            workload(1, "client", "v1", "default"),
            MeshWorkload(
                "ingressgateway", "istio-system", "gateway-account",
                {"istio": "ingressgateway", "gateway.networking.k8s.io/gateway-name": "edge"},
                IPv4Address("10.78.1.9"), "edge", kind=ProxyKind.GATEWAY,
                ports=(ServicePort("http", 80, Protocol.HTTP, 8080),),
            ),
        ),
    )  # fmt: skip


def shown(proxy: ProxyConfiguration, kind: str, names: str) -> Any:
    """A piece of the proxy's configuration."""

    def resources(path: str) -> list[dict[str, Any]]:
        return _brief(json.loads(proxy.files[path].content))["resources"] if path in proxy.files else []

    if kind == "routes":
        config, _, host = names.partition(" ")
        hosts = [h for r in resources(routes_path(config)) for h in r["virtual_hosts"]]
        return [h for h in hosts if host in h["domains"] or not host]
    if kind == "endpoints":
        return [r["endpoints"] for r in resources(endpoints_path(names))]
    file = {"cluster": "cds.json", "listener": "lds.json"}[kind]
    return [r for r in resources(file) if r["name"] == names]


def _brief(value: Any) -> Any:
    """Without what every case would repeat: the access log's fields, and where a resource came from."""
    if isinstance(value, dict):
        return {k: _brief(v) for k, v in value.items() if k not in ("log_format", "istio")}
    return [_brief(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.stem)
def test_configuration_is_as_recorded(case: Path) -> None:
    text = case.read_text()
    compiled = compile_mesh(load(parse(text, case.name)), topology())
    found = {
        f"{proxy} {kind} {names}": shown(compiled[proxy], kind, names) for proxy, kind, names in SHOW.findall(text)
    }
    assert found, "the case shows nothing"
    expected = case.with_suffix(".json")
    if os.environ.get("TESTBED_WRITE"):
        expected.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(expected.read_text())


def test_every_recorded_answer_has_its_case() -> None:
    assert {p.stem for p in HERE.glob("*.json")} == {p.stem for p in CASES}
