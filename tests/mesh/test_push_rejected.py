"""What a proxy refuses or never takes up is said, with its reason, and the mesh keeps its last good revision."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from harness import LocalConnection, LocalProgram, MeshHarness
from test_push_in_force import STRICT, split, versions

from testbed.backends.standalone import StandaloneBackend
from testbed.errors import BadInput, LabError, MeshError
from testbed.guests import Completed
from testbed.model.proxy import ProxyConfiguration, XdsFile, content_hash


def edited(
    mesh: MeshHarness, text: str, kind: str, edit: Callable[[dict[str, Any]], None]
) -> dict[str, ProxyConfiguration]:
    """The mesh's configuration, with every resource of the client's files of that kind changed by ``edit``."""
    configurations = mesh.backend.compile(mesh.resources(text))
    files = dict(configurations["client-v1"].files)
    for path in [p for p in files if p.startswith(kind)]:
        document = json.loads(files[path].content)
        for resource in document["resources"]:
            edit(resource)
        version = content_hash(json.dumps(document["resources"]))
        document["version_info" if "version_info" in document else "versionInfo"] = version
        files[path] = XdsFile(
            path, files[path].type_url, files[path].resources, version, json.dumps(document).encode()
        )
    return {**configurations, "client-v1": ProxyConfiguration("client-v1", files)}


def break_routes(resource: dict[str, Any]) -> None:
    resource["validate_clusters"] = True
    resource["virtual_hosts"] = [
        {"name": "x", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "nowhere"}}]}
    ]
    resource.pop("virtualHosts", None)
    resource.pop("validateClusters", None)


def test_a_refused_route_is_reported_and_never_served(two_services):
    two_services.apply(split(100, 0))
    broken = edited(two_services, split(0, 100), "rds/", break_routes)
    with pytest.raises(MeshError, match=r"client-v1: rejected its configuration: rds/.*unknown cluster 'nowhere'"):
        two_services.backend.push(broken, two_services.resources(split(0, 100)))
    assert versions(two_services) == {"v1": 60}
    for state in two_services.backend.states():
        assert state.in_force, state.summary
    assert two_services.backend.applied() == two_services.resources(split(100, 0))
    assert two_services.backend.diff(two_services.resources(split(100, 0))).is_empty


def test_when_one_proxy_refuses_the_others_go_back_too(two_services):
    two_services.apply(split(100, 0))
    before = {s.workload: s.revision_wanted for s in two_services.backend.states()}
    broken = edited(two_services, split(0, 100), "rds/", break_routes)
    with pytest.raises(MeshError, match="last good revision is kept"):
        two_services.backend.push(broken, two_services.resources(split(0, 100)))
    assert {s.workload: s.revision_wanted for s in two_services.backend.states()} == before
    assert {s.in_force for s in two_services.backend.states()} == {True}
    answers = two_services.request("web-v1", "http://web/", n=20)
    assert {a.version for a in answers} == {"v1"}


def test_a_refused_cluster_or_listener_is_taken_back_whole(two_services):
    """Envoy takes the good part of a refused list: that part has to go as well."""
    two_services.apply(split(100, 0))

    def break_listener(resource: dict[str, Any]) -> None:
        resource.setdefault("listener_filters", resource.pop("listenerFilters", [])).append(
            {"name": "nobody", "typed_config": {"@type": "type.googleapis.com/google.protobuf.Empty"}}
        )

    listeners = two_services.backend.admin("client-v1", "/listeners")
    with pytest.raises(MeshError, match=r"client-v1: rejected its configuration: lds.json"):
        two_services.backend.push(
            edited(two_services, split(0, 100), "lds", break_listener), two_services.resources(split(0, 100))
        )
    assert two_services.backend.admin("client-v1", "/listeners") == listeners

    def break_cluster(resource: dict[str, Any]) -> None:
        if resource["name"].startswith("outbound"):
            resource.pop("connectTimeout", None)
            resource["connect_timeout"] = "-1s"

    with pytest.raises(MeshError, match=r"client-v1: rejected its configuration: cds.json"):
        two_services.backend.push(
            edited(two_services, split(0, 100), "cds", break_cluster), two_services.resources(split(0, 100))
        )
    assert versions(two_services) == {"v1": 60}


def test_a_listener_that_never_warms_is_named_and_taken_back(two_services):
    two_services.apply(split(100, 0))

    def another_name(resource: dict[str, Any]) -> None:
        resource["name"] += "-else"  # Envoy ignores it, and the listener waits for its routes

    broken = edited(two_services, split(0, 100), "rds/", another_name)
    with pytest.raises(MeshError, match=r"client-v1: .*rds/"):
        two_services.backend.push(broken, two_services.resources(split(0, 100)), limit=3)
    assert versions(two_services) == {"v1": 60}


def test_a_killed_proxy_is_seen_and_started_by_the_next_apply(two_services):
    two_services.apply(split(100, 0))
    os.kill(two_services.pid("web-v2"), signal.SIGKILL)
    state = two_services.state("web-v2")
    assert not state.in_force
    assert "does not answer" in state.summary
    two_services.apply(split(100, 0))
    assert two_services.state("web-v2").in_force
    two_services.apply(split(0, 100))
    assert versions(two_services) == {"v2": 60}


class Dying(LocalConnection):
    """A node that dies in the middle of an apply: the tool has written, and nobody hears of it."""

    def run(self, argv, *, stdin=b"", limit=60.0, check=True) -> Completed:
        done = super().run(argv, stdin=stdin, limit=limit, check=check)
        if argv[-1] == "apply":
            raise LabError(self.node, "apply", "the connection is gone")
        return done


def test_when_a_node_is_lost_the_others_go_back_and_the_next_apply_mends_it(two_services):
    two_services.apply(split(100, 0))
    connections = {**two_services.connections, "two": Dying("two")}
    lossy = StandaloneBackend(two_services.topology, connections, two_services.ca, guest=two_services.guest)
    with pytest.raises(LabError, match="two: apply: the connection is gone"):
        lossy.apply(two_services.resources(split(0, 100)))
    assert versions(two_services) == {"v1": 60}
    two_services.apply(split(100, 0))
    assert two_services.backend.diff(two_services.resources(split(100, 0))).is_empty
    assert two_services.backend.applied() == two_services.resources(split(100, 0))


class Cut(LocalConnection):
    """A node whose guest program is killed so many seconds into an apply."""

    def __init__(self, node: str, seconds: float) -> None:
        super().__init__(node)
        self._seconds = seconds

    def run(self, argv, *, stdin=b"", limit=60.0, check=True) -> Completed:
        return super().run(argv, stdin=stdin, limit=self._seconds if argv[-1] == "apply" else limit, check=check)


@pytest.mark.parametrize("seconds", [0.03, 0.05, 0.07, 0.1, 0.15])
@pytest.mark.parametrize("then", [(100, 0), (0, 100)])
def test_a_push_that_was_killed_is_mended_by_the_next(two_services, seconds, then):
    """Whether the next apply wants the old configuration or the new one."""
    mesh = two_services
    mesh.apply(split(100, 0) + STRICT)
    cut = {node: Cut(node, seconds) for node in mesh.connections}
    backend = StandaloneBackend(mesh.topology, cut, mesh.ca, guest=mesh.guest)
    with contextlib.suppress(LabError):
        backend.apply(mesh.resources(split(0, 100)))
    mesh.apply(split(*then) + STRICT)
    assert {s.in_force for s in mesh.backend.states()} == {True}
    assert versions(mesh) == {"v1" if then[0] else "v2": 60}
    client = mesh.topology.workload("web-v1").address
    (answer,) = mesh.request("client-v1", f"http://{client}:8080/", user=1337)
    assert answer.status == 0  # STRICT again


def test_a_file_that_no_node_has_is_said_before_anything_is_pushed(two_services):
    """Envoy would refuse all of its clusters for one such file."""
    two_services.apply(split(100, 0))
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: away}
spec:
  host: elsewhere.example
  trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /none.pem, privateKey: /none.key, caCertificates: system}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: away}
spec: {hosts: [elsewhere.example], resolution: DNS, ports: [{number: 443, name: https, protocol: HTTPS}]}
"""
    with pytest.raises(BadInput, match=r"there is no file /none\.pem on one, two") as told:
        two_services.backend.apply(two_services.resources(split(0, 100) + "---" + rule))
    assert [p.location.field for p in told.value.problems] == [
        "spec.trafficPolicy.tls.clientCertificate",
        "spec.trafficPolicy.tls.privateKey",
    ]
    assert versions(two_services) == {"v1": 60}
    assert two_services.backend.diff(two_services.resources(split(100, 0))).is_empty


def test_the_program_that_pushes_is_kept_and_started_again_when_it_is_gone(two_services):
    two_services.apply(split(100, 0))
    kept = StandaloneBackend(
        two_services.topology,
        (started := {n: Counting(n) for n in two_services.connections}),
        two_services.ca,
        guest=two_services.guest,
        lasting=True,
    )
    kept.apply(two_services.resources(split(0, 100)))
    assert versions(two_services) == {"v2": 60}
    kept.apply(two_services.resources(split(100, 0)))
    assert versions(two_services) == {"v1": 60}
    assert [len(c.programs) for c in started.values()] == [1, 1]
    for connection in started.values():
        connection.programs[0].process.kill()
        connection.programs[0].process.wait()
    kept.apply(two_services.resources(split(0, 100)))
    assert versions(two_services) == {"v2": 60}
    assert [len(c.programs) for c in started.values()] == [2, 2]
    for connection in started.values():
        for program in connection.programs:
            program.close()
            assert not program.alive


class Counting(LocalConnection):
    """A node that remembers what was started on it."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.programs: list[LocalProgram] = []

    def start(self, argv) -> LocalProgram:
        self.programs.append(super().start(argv))
        return self.programs[-1]
