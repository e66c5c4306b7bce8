"""What the compiler promises for any valid resources."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from istio_strategies import bookinfo, resource_sets

import testbed.compiler.mesh  # noqa: F401  (registers every message type that is used)
from testbed.compiler import CompileCache, bootstrap, compile_mesh
from testbed.documents import parse
from testbed.resources import ResourceSet, load

TOPOLOGY = bookinfo()
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
RELAXED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

STRANGER = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: stranger, namespace: nowhere}
spec:
  hosts: [stranger.example]
  exportTo: ["."]
  http: [{route: [{destination: {host: reviews.default.svc.cluster.local}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: stranger, namespace: nowhere}
spec: {host: reviews.default.svc.cluster.local, exportTo: ["."], trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: stranger, namespace: nowhere}
spec: {}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: stranger, namespace: nowhere}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: stranger, namespace: nowhere}
spec: {egress: [{hosts: ["./*"]}]}
"""


def contents(resources: ResourceSet, cache: CompileCache | None = None) -> dict[str, dict[str, bytes]]:
    compiled = compile_mesh(resources, TOPOLOGY, cache=cache)
    return {w: {path: file.content for path, file in c.files.items()} for w, c in compiled.items()}


@RELAXED
@given(resource_sets(TOPOLOGY, most=6))
def test_every_output_parses_as_envoys_messages(resources):
    """And carries the version that it is known by."""
    from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse

    for configuration in compile_mesh(resources, TOPOLOGY).values():
        for file in configuration.files.values():
            response = json_format.Parse(file.content, DiscoveryResponse())
            assert response.version_info == file.version
            assert [r.type_url for r in response.resources] == [file.type_url] * len(file.resources)
            assert len(set(file.resources)) == len(file.resources)


@RELAXED
@given(resource_sets(TOPOLOGY, most=6))
def test_the_same_input_gives_the_same_bytes(resources):
    assert contents(resources) == contents(ResourceSet(list(resources)))


@RELAXED
@given(st.lists(resource_sets(TOPOLOGY, most=4), min_size=2, max_size=4))
def test_a_kept_cache_changes_no_byte(steps):
    """Whatever was compiled before, the result is that of a first compilation."""
    cache = CompileCache()
    for resources in steps:
        assert contents(resources, cache) == contents(resources)


@RELAXED
@given(resource_sets(TOPOLOGY, most=5))
def test_an_unrelated_resource_leaves_all_bytes_alone(resources):
    assert contents(resources.merged(load(parse(STRANGER, "stranger.yaml")))) == contents(resources)


@RELAXED
@given(resource_sets(TOPOLOGY, most=5))
def test_a_version_stands_for_the_content(resources):
    """Two proxies' files of the same name and version have the same content, but for the paths in it."""
    seen: dict[tuple[str, str], bytes] = {}
    for configuration in compile_mesh(resources, TOPOLOGY).values():
        for path, file in configuration.files.items():
            if path not in ("cds.json", "lds.json"):
                assert seen.setdefault((path, file.version), file.content) == file.content


@RELAXED
@given(resource_sets(TOPOLOGY, most=5))
def test_what_is_pointed_at_is_there(resources):
    """Every endpoint and route file that clusters and listeners name is among the proxy's files, and no other."""
    for workload, configuration in compile_mesh(resources, TOPOLOGY).items():
        text = b"".join(configuration.files[p].content for p in ("cds.json", "lds.json")).decode()
        for path in configuration.files:
            if "/" in path:
                assert f"/{workload}/{path}" in text
        for folder in ("eds", "rds"):
            pointed = {p.split('"')[0] for p in text.split(f"/{workload}/{folder}/")[1:]}
            assert {f"{folder}/{p}" for p in pointed} <= set(configuration.files)


@pytest.mark.parametrize("workload", [w.name for w in TOPOLOGY.workloads])
def test_the_bootstrap_is_envoys(workload):
    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    text = bootstrap(TOPOLOGY.workload(workload), TOPOLOGY)
    parsed = json_format.Parse(text, Bootstrap())
    assert parsed.node.id.split("~")[1] == str(TOPOLOGY.workload(workload).address)
    assert parsed.admin.address.socket_address.address == "127.0.0.1"
    assert json.loads(text)["dynamic_resources"].keys() == {"cds_config", "lds_config"}


def test_another_topology_is_compiled_anew():
    cache = CompileCache()
    compile_mesh(ResourceSet(), TOPOLOGY, cache=cache)
    fewer = replace(TOPOLOGY, workloads=TOPOLOGY.workloads[:2])
    assert set(compile_mesh(ResourceSet(), fewer, cache=cache)) == {w.name for w in fewer.workloads}
