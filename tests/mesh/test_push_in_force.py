"""A change is in force when ``apply`` returns: without a restart, without a lost request, and nothing needless."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import TWO_SERVICES, MeshHarness

DESTINATIONS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
"""
STRICT = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


def split(first: int, second: int) -> str:
    """Weights of the two versions of ``web``."""
    return f"""{DESTINATIONS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: [web]
  http:
    - route:
        - {{destination: {{host: web, subset: v1}}, weight: {first}}}
        - {{destination: {{host: web, subset: v2}}, weight: {second}}}
"""


def versions(mesh: MeshHarness, n: int = 60) -> Counter[str]:
    answers = mesh.request("client-v1", "http://web/", n=n)
    assert {a.status for a in answers} == {200}, Counter((a.status, a.error) for a in answers)
    return Counter(a.version for a in answers)


def files(mesh: MeshHarness) -> dict[str, tuple[int, int]]:
    """Every file of every proxy -> inode and time of change."""
    root = mesh.run / "proxies"
    found = {}
    for file in root.glob("*/**/*.json"):
        if ".state" not in file.parts:
            found[str(file.relative_to(root))] = (file.stat().st_ino, file.stat().st_mtime_ns)
    return found


def test_new_weights_count_for_the_first_request_after_apply(two_services, record_property):
    two_services.apply(split(100, 0))
    for first, second, version in ((0, 100, "v2"), (100, 0, "v1"), (0, 100, "v2")):
        applied = two_services.apply(split(first, second))
        assert versions(two_services) == {version: 60}
        record_property("in_force_seconds", applied.in_force_seconds)
        assert applied.in_force_seconds < 5


def uptime(mesh: MeshHarness, workload: str) -> int:
    """Seconds since its proxy was started."""
    return int(json.loads(mesh.backend.admin(workload, "/server_info"))["uptime_all_epochs"].rstrip("s"))


def test_a_change_restarts_no_proxy(two_services):
    two_services.apply(split(100, 0))
    names = [w.name for w in two_services.topology.workloads]
    before = {n: (two_services.pid(n), uptime(two_services, n)) for n in names}
    two_services.apply(split(50, 50) + STRICT)
    for n, (pid, seconds) in before.items():
        assert two_services.pid(n) == pid
        assert uptime(two_services, n) >= seconds


def test_only_what_changed_is_written(two_services):
    two_services.apply(split(100, 0))
    before = files(two_services)
    applied = two_services.apply(split(90, 10))
    after = files(two_services)
    written = {path for path in after if after[path] != before.get(path)}
    assert written == {f"{w}/{path}" for w, paths in applied.changed.items() for path in paths}
    assert {Path(path).parts[1] for path in written} == {"rds"}


def test_an_unchanged_configuration_is_not_pushed(two_services):
    two_services.apply(split(70, 30))
    before = files(two_services)
    applied = two_services.apply(split(70, 30))
    assert not applied.changed
    assert files(two_services) == before
    assert two_services.backend.diff(two_services.resources(split(70, 30))).is_empty


def test_the_difference_is_known_beforehand(two_services):
    two_services.apply(split(70, 30))
    diff = two_services.backend.diff(two_services.resources(split(60, 40)))
    assert any(line.startswith("-") and "70" in line for line in diff.resources)
    applied = two_services.apply(split(60, 40))
    assert diff.changed == applied.changed
    assert diff.revision_to == applied.revision


def test_the_resources_are_read_back_from_the_nodes(two_services):
    two_services.apply(split(70, 30) + STRICT)
    assert two_services.backend.applied() == two_services.resources(split(70, 30) + STRICT)


def test_no_request_is_lost_while_weights_and_policies_change(two_services):
    two_services.apply(split(100, 0))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            two_services.request, "client-v1", "http://web/", n=400, pause=0.01, concurrency=2, reuse=True
        )
        for text in (split(0, 100), split(50, 50) + STRICT, DESTINATIONS, split(10, 90)):
            two_services.apply(text)
        answers = running.result()
    assert Counter((a.status, a.error) for a in answers) == {(200, ""): 400}


def test_a_policy_is_in_force_for_connections_that_were_open_before_it(two_services):
    """A proxy leaves idle connections on the old listener until it is drained: apply waits for that."""
    two_services.apply(DESTINATIONS)
    two_services.clear_logs()
    address = two_services.topology.workload("web-v1").address
    gate = two_services.run / "in-force"  # where the proxies' user can see it
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            two_services.request, "client-v1", f"http://{address}:8080/", n=3, reuse=True, gate=gate, user=1337
        )
        try:
            two_services.access_log("web-v1", at_least=1)
            two_services.apply(DESTINATIONS + STRICT)
        finally:
            gate.touch()
        answers = running.result()
    assert [a.status for a in answers] == [200, 0, 0]


def test_what_a_proxy_answers_for_is_what_its_files_hold(two_services):
    two_services.apply(split(50, 50))
    for state in two_services.backend.states():
        assert state.in_force, state.summary
    dump = json.loads(two_services.backend.admin("client-v1", "/config_dump?resource=dynamic_route_configs"))
    held = {c["version_info"] for c in dump["configs"]}
    on_disk = {
        json.loads(f.read_text())["version_info"]
        for f in (two_services.run / "proxies/client-v1/rds").glob("*.json")
    }
    assert held == on_disk


def test_a_cluster_goes_away_only_after_the_routes_to_it(two_services):
    two_services.apply(split(0, 100))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(two_services.request, "client-v1", "http://web/", n=200, pause=0.01)
        two_services.apply("")  # no subsets: their clusters go
        answers = running.result()
    assert Counter((a.status, a.error) for a in answers) == {(200, ""): 200}
    clusters = two_services.backend.admin("client-v1", "/clusters").decode()
    assert "outbound|80|v2|" not in clusters


@pytest.mark.parametrize("name", ["timezone", "upstream-rq", "version-text"])
def test_names_that_look_like_statistics_do_not_matter(name):
    with MeshHarness.from_inventory(TWO_SERVICES.replace("web", name)) as mesh:
        mesh.apply("", limit=10)
        assert all(state.in_force for state in mesh.backend.states())
        assert mesh.request("client-v1", f"http://{name}/")[0].status == 200
