"""DestinationRules, by what live Envoys do with endpoints and connections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from harness import MeshHarness
from traffic_mesh import CLIENT, behaving, manifest, routes, rule, said, started, to, together, versions

from testbed.waiting import NotYet, wait_until


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    yield from started()


def ask(mesh: MeshHarness, n: int = 1, path: str = "/", **how):
    return mesh.request(CLIENT, f"http://web{path}", n=n, **how)


def balance(**settings):
    return rule({"loadBalancer": settings})


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.loadBalancer.simple", "DestinationRule.spec.host")
def test_round_robin_takes_turns(mesh):
    mesh.apply(balance(simple="ROUND_ROBIN"))
    found = [a.version for a in ask(mesh, n=40)]
    assert Counter(found) == {"v1": 20, "v2": 20}
    assert all(a != b for a, b in pairwise(found))


@pytest.mark.parametrize("simple", ["RANDOM", "LEAST_REQUEST", None])
def test_others_use_every_endpoint(mesh, simple):
    mesh.apply(balance(simple=simple) if simple else "")
    counts = versions(ask(mesh, n=100))
    assert counts.keys() == {"v1", "v2"}
    assert min(counts.values()) > 15


def test_least_request_avoids_the_busy_one(mesh):
    """Envoy draws two endpoints of the two, so the busy one alone is drawn once in four times; by luck it would be
    half.  Each is on the wrong side of the bound less often than once in 100,000 times."""
    mesh.apply(balance(simple="LEAST_REQUEST"))
    with behaving(mesh, "web-v1", delay=0.3):
        counts = versions(ask(mesh, n=300, concurrency=12))
    assert counts["v1"] < 110


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.loadBalancer.simple")
def test_passthrough_goes_where_the_caller_went(mesh):
    mesh.apply(balance(simple="PASSTHROUGH"))
    for version in ("v1", "v2"):
        address = str(mesh.topology.workload(f"web-{version}").address)
        answers = mesh.request(CLIENT, "http://web:8080/", n=3, connect=address)
        assert versions(answers) == {version: 3}


@pytest.mark.parametrize(
    ("key", "request_of"),
    [
        ({"httpHeaderName": "x-user"}, lambda user: {"headers": {"x-user": user}}),
        ({"httpQueryParameterName": "user"}, lambda user: {"path": f"/?user={user}"}),
        ({"httpCookie": {"name": "user", "ttl": "0s"}}, lambda user: {"headers": {"cookie": f"user={user}"}}),
    ],
    ids=["header", "query", "cookie"],
)
@pytest.mark.parametrize(
    "ring",
    [{"ringHash": {"minimumRingSize": 256}}, {"maglev": {"tableSize": 65537}}, {}],
    ids=["ring", "maglev", ""],
)
@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.httpHeaderName",
    "DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName",
    "DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
    "DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize",
    "DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
)
def test_the_same_key_goes_to_the_same_endpoint(mesh, key, request_of, ring):
    mesh.apply(balance(consistentHash={**key, **ring}))
    found = {}
    for user in "abcdefghijkl":
        (version,) = versions(ask(mesh, n=4, **request_of(user)))
        found[user] = version
    assert set(found.values()) == {"v1", "v2"}


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.*")
def test_a_cookie_is_made_when_it_is_missing(mesh):
    cookie = {"name": "session", "path": "/here", "ttl": "60s"}
    mesh.apply(balance(consistentHash={"httpCookie": cookie}))
    (answer,) = ask(mesh)
    made = answer.headers["set-cookie"]
    assert made.startswith("session=")
    assert "Max-Age=60" in made
    assert "Path=/here" in made


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp")
def test_one_caller_stays_with_one_endpoint_by_its_address(mesh):
    mesh.apply(balance(consistentHash={"useSourceIp": True}))
    assert len(versions(ask(mesh, n=12))) == 1


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.outlierDetection.*")
def test_an_endpoint_that_fails_is_left_out_and_comes_back(mesh):
    outlier = {
        "consecutive5xxErrors": 3,
        "interval": "200ms",
        "baseEjectionTime": "1500ms",
        "maxEjectionPercent": 100,
    }
    no_retries = routes({"retries": {"attempts": 0}, "route": [to()]})
    mesh.apply(together(no_retries, rule({"outlierDetection": outlier})))

    def ejections() -> int:
        return sum(mesh.stats(CLIENT, "ejections_enforced_total").values())

    before = ejections()
    with behaving(mesh, "web-v1", status=500):
        failed = versions(ask(mesh, n=10))["v1"]
        # however long they took, so that it came back in between: three failures cost it its place each time
        times = ejections() - before
        assert times
        assert 3 * times <= failed < 3 * times + 3

        def ejected() -> None:
            if versions(ask(mesh, n=4)) != {"v2": 4}:
                raise NotYet("v1 still answers")

        wait_until("ejection of web-v1", ejected, limit=20, interval=0.2)

    def back() -> None:
        if "v1" not in versions(ask(mesh, n=4)):
            raise NotYet("v1 is still ejected")

    wait_until("return of web-v1", back, limit=20, interval=0.3)


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.outlierDetection.maxEjectionPercent")
def test_no_more_endpoints_are_left_out_than_allowed(mesh):
    outlier = {"consecutive5xxErrors": 1, "interval": "100ms", "baseEjectionTime": "30s", "maxEjectionPercent": 50}
    mesh.apply(together(routes({"retries": {"attempts": 0}, "route": [to()]}), rule({"outlierDetection": outlier})))
    with behaving(mesh, "web-v1", status=500), behaving(mesh, "web-v2", status=500):
        assert versions(ask(mesh, n=20, pause=0.05)).keys() <= {"v1", "v2"}
    ejected = [v for k, v in mesh.stats(CLIENT, "outlier_detection.ejections_active").items() if "|80||" in k]
    assert ejected == [1]


@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests",
    "DestinationRule.spec.trafficPolicy.connectionPool.tcp.maxConnections",
)
def test_what_overflows_the_pool_is_turned_away(mesh):
    pool = {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}}
    mesh.apply(together(routes({"retries": {"attempts": 0}, "route": [to("v1")]}), rule({"connectionPool": pool})))
    with behaving(mesh, "web-v1", delay=0.5):
        answers = ask(mesh, n=8, concurrency=8)
    statuses = Counter(a.status for a in answers)
    assert statuses[503] >= 5
    assert statuses[200] >= 1
    turned_away = next(a for a in answers if a.status == 503)
    assert turned_away.headers["x-envoy-overloaded"] == "true"
    assert any("UO" in line["response_flags"] for line in mesh.access_log(CLIENT, at_least=8))


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.connectionPool.http.http2MaxRequests")
def test_active_requests_are_limited(mesh):
    pool = {"http": {"http2MaxRequests": 2}}
    mesh.apply(together(routes({"retries": {"attempts": 0}, "route": [to("v1")]}), rule({"connectionPool": pool})))
    with behaving(mesh, "web-v1", delay=0.5):
        statuses = Counter(a.status for a in ask(mesh, n=8, concurrency=8))
    assert statuses[200] >= 2
    assert statuses[503] >= 4


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection")
def test_connections_are_renewed_after_so_many_requests(mesh):
    def connections(pool: dict) -> int:
        mesh.apply(together(routes({"route": [to("v1")]}), rule({"connectionPool": {"http": pool}})))
        name = "outbound|80|v1|web.default.svc.cluster.local.upstream_cx_total"

        def total() -> int:
            return sum(v for k, v in mesh.stats(CLIENT, "upstream_cx_total").items() if k.endswith(name))

        before = total()
        ask(mesh, n=10, reuse=True)
        return total() - before

    assert connections({"maxRequestsPerConnection": 1}) == 10
    assert connections({}) <= 2


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.connectionPool.tcp.connectTimeout")
def test_a_connection_that_is_not_made_times_out(mesh):
    entry = {
        "hosts": ["nowhere.example"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "10.78.0.77"}],
    }
    policy = {"connectionPool": {"tcp": {"connectTimeout": "400ms"}}}
    mesh.apply(
        together(
            manifest("ServiceEntry", "nowhere", entry),
            manifest("DestinationRule", "nowhere", {"host": "nowhere.example", "trafficPolicy": policy}),
            routes(
                {"retries": {"attempts": 0}, "route": [{"destination": {"host": "nowhere.example"}}]},
                host="nowhere.example",
            ),
        )
    )
    (answer,) = mesh.request(CLIENT, "http://nowhere.example/")
    assert answer.status == 503
    assert 0.3 < answer.seconds < 2.5


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.connectionPool.http.h2UpgradePolicy")
@pytest.mark.parametrize(("policy", "protocol"), [("UPGRADE", "HTTP/2"), ("DO_NOT_UPGRADE", "HTTP/1.1")])
def test_the_way_to_the_sidecar_is_upgraded(mesh, policy, protocol):
    mesh.apply(rule({"connectionPool": {"http": {"h2UpgradePolicy": policy}}}))
    mesh.clear_logs()
    (answer,) = ask(mesh)
    assert answer.status == 200
    assert mesh.access_log(f"web-{answer.version}", at_least=1)[-1]["protocol"] == protocol


@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.retryBudget.*",
    "DestinationRule.spec.trafficPolicy.connectionPool.http.maxRetries",
)
def test_retries_at_a_time_are_limited(mesh):
    """maxRetries 1: of many requests that fail together only few are tried again."""
    retrying = routes({"retries": {"attempts": 1, "retryOn": "5xx", "backoff": "1s"}, "route": [to("v1")]})
    for limit in (
        {"connectionPool": {"http": {"maxRetries": 1}}},
        {"retryBudget": {"percent": 1, "minRetryConcurrency": 1}},
    ):
        mesh.apply(together(retrying, rule(limit)))
        mesh.clear_logs()
        with behaving(mesh, "web-v1", status=500, delay=0.3):
            ask(mesh, n=10, concurrency=10)
        assert len(mesh.backend_log("web-v1")) < 17
        assert any(v for k, v in mesh.stats(CLIENT, "upstream_rq_retry_overflow").items())


@pytest.mark.proves(
    "DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.simple",
    "DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.consistentHash.httpHeaderName",
)
def test_a_subset_has_its_own_policy(mesh):
    by_user, in_turn = {"consistentHash": {"httpHeaderName": "x-user"}}, {"simple": "ROUND_ROBIN"}
    for general, own, endpoints in ((by_user, in_turn, 2), (in_turn, by_user, 1)):
        subset = {"name": "both", "labels": {"app": "web"}, "trafficPolicy": {"loadBalancer": own}}
        mesh.apply(together(routes({"route": [to("both")]}), rule({"loadBalancer": general}, subsets=[subset])))
        assert len(versions(ask(mesh, n=8, headers={"x-user": "ann"}))) == endpoints


def test_limits_hold_on_the_receiving_side_too(mesh):
    """A caller that goes past its own sidecar still meets the callee's limit."""
    peers = manifest("PeerAuthentication", "default", {"mtls": {"mode": "PERMISSIVE"}})
    mesh.apply(together(peers, rule({"connectionPool": {"http": {"http2MaxRequests": 1}}})))
    address = mesh.topology.workload("web-v1").address
    with behaving(mesh, "web-v1", delay=0.5):
        answers = mesh.request(CLIENT, f"http://{address}:8080/", n=6, concurrency=6, user=1337)
    assert Counter(a.status for a in answers)[503] >= 3


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[].*")
def test_requests_are_distributed_by_place(mesh):
    spread = {"distribute": [{"from": "north/a/*", "to": {"north/a/*": 90, "north/b/*": 10}}]}
    mesh.apply(rule({"loadBalancer": {"localityLbSetting": spread}}))
    counts = versions(ask(mesh, n=300))
    assert 2 <= counts["v2"] <= 75  # 30 expected
    assert counts.keys() == {"v1", "v2"}


@pytest.mark.proves(
    "DestinationRule.spec.trafficPolicy.loadBalancer.localityLbSetting.failover[].*",
    "DestinationRule.spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[]",
    "DestinationRule.spec.trafficPolicy.loadBalancer.localityLbSetting.enabled",
)
@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        pytest.param({}, "v1", "v2", id="nearest"),
        pytest.param({"failoverPriority": ["version=v2"]}, "v2", "v1", id="by-label"),
    ],
)
def test_the_nearest_are_used_until_they_fail(mesh, setting, first, second):
    outlier = {"consecutive5xxErrors": 2, "interval": "100ms", "baseEjectionTime": "30s", "maxEjectionPercent": 100}
    balancer = {"simple": "ROUND_ROBIN", "localityLbSetting": setting}
    no_retries = routes({"retries": {"attempts": 0}, "route": [to()]})
    mesh.apply(together(no_retries, rule({"loadBalancer": balancer, "outlierDetection": outlier})))
    assert versions(ask(mesh, n=20)) == {first: 20}
    with behaving(mesh, f"web-{first}", status=500):
        ask(mesh, n=4)

        def failed_over() -> None:
            if versions(ask(mesh, n=4)) != {second: 4}:
                raise NotYet("the failing one is still called")

        wait_until("failover", failed_over, limit=4, interval=0.2)


def test_without_locality_all_are_used(mesh):
    balancer = {"simple": "ROUND_ROBIN", "localityLbSetting": {"enabled": False}}
    mesh.apply(rule({"loadBalancer": balancer, "outlierDetection": {"consecutive5xxErrors": 5}}))
    assert versions(ask(mesh, n=20)) == {"v1": 10, "v2": 10}


@pytest.mark.proves("DestinationRule.spec.exportTo[]", "DestinationRule.spec.workloadSelector.matchLabels{}")
def test_the_callers_namespace_comes_first(mesh):
    """Of rules for one host the caller's wins over the service's; a selector narrows it to some callers."""

    def pinned(name: str, version: str, namespace: str, **more) -> str:
        policy = {"consistentHash": {"httpHeaderName": "x"}} if version == "hash" else {"simple": "ROUND_ROBIN"}
        spec = {"host": "web.default.svc.cluster.local", "trafficPolicy": {"loadBalancer": policy}, **more}
        return manifest("DestinationRule", name, spec, namespace)

    def spread(caller: str) -> int:
        return len(versions(mesh.request(caller, "http://web.default/", n=8, headers={"x": "1"})))

    mesh.apply(pinned("own", "hash", "default"))
    assert (spread(CLIENT), spread("far-v1")) == (1, 1)
    mesh.apply(pinned("own", "hash", "default", exportTo=["."]))
    assert (spread(CLIENT), spread("far-v1")) == (1, 2)
    mesh.apply(together(pinned("own", "rr", "default"), pinned("theirs", "hash", "other")))
    assert (spread(CLIENT), spread("far-v1")) == (2, 1)
    mesh.apply(pinned("some", "hash", "default", workloadSelector={"matchLabels": {"app": "client"}}))
    assert (spread(CLIENT), spread("spare-v1")) == (1, 2)


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.tls.mode")
def test_tls_modes_meet_what_the_callee_takes(mesh):
    def status(mode: str | None, peers: str) -> int:
        policy = {"tls": {"mode": mode}} if mode else {}
        strict = manifest("PeerAuthentication", "default", {"mtls": {"mode": peers}})
        mesh.apply(together(strict, rule(policy), routes({"retries": {"attempts": 0}, "route": [to("v1")]})))
        (answer,) = ask(mesh)
        return answer.status

    assert status(None, "STRICT") == 200
    assert status("ISTIO_MUTUAL", "STRICT") == 200
    assert status("DISABLE", "STRICT") == 503
    assert status("DISABLE", "PERMISSIVE") == 200
    assert status("ISTIO_MUTUAL", "DISABLE") == 503
    assert status(None, "DISABLE") == 200
    # the lab's CA is nobody's who verifies by the system's roots
    assert status("SIMPLE", "PERMISSIVE") == 503


def test_a_peer_with_another_name_is_refused(mesh):
    mesh.apply(
        together(
            rule(
                {"tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": ["spiffe://cluster.local/ns/default/sa/else"]}}
            ),
            routes({"retries": {"attempts": 0}, "route": [to("v1")]}),
        )
    )
    (answer,) = ask(mesh)
    assert answer.status == 503
    assert "SAN" in mesh.access_log(CLIENT, at_least=1)[-1]["upstream_transport_failure_reason"]


def test_the_caller_is_known_by_its_identity(mesh):
    mesh.apply(rule())
    (answer,) = ask(mesh)
    assert "URI=spiffe://cluster.local/ns/default/sa/client" in said(answer)["x-forwarded-client-cert"]


@pytest.mark.proves("DestinationRule.spec.trafficPolicy.loadBalancer.warmup.*")
def test_a_new_endpoint_is_warmed_up(mesh):
    """Its share follows its age: what is expected is reckoned from the times that passed in fact."""
    window, requests = 100, 200

    def behind(*workloads: str) -> str:
        ends = [{"address": str(mesh.topology.workload(w).address)} for w in workloads]
        ports = [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]
        spec = {"hosts": ["warm.example"], "ports": ports, "resolution": "STATIC", "endpoints": ends}
        warmup = {"duration": f"{window}s", "minimumPercent": 1, "aggression": 1}
        policy = {"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": warmup}}
        rules = {"host": "warm.example", "trafficPolicy": policy}
        return together(manifest("ServiceEntry", "warm", spec), manifest("DestinationRule", "warm", rules))

    mesh.apply(behind("web-v1"))
    old = time.monotonic()

    def aged() -> None:
        if time.monotonic() < old + 7:
            raise NotYet("the old endpoint is too young")

    wait_until("the old endpoint's age", aged, limit=60, interval=0.5)
    new = time.monotonic()
    mesh.apply(behind("web-v1", "web-v2"))
    counts = versions(mesh.request(CLIENT, "http://warm.example/", n=requests))
    ended = time.monotonic()
    oldest_new = max(ended - new, window / 100)
    share = oldest_new / (oldest_new + ended - old)
    assert counts["v1"] + counts["v2"] == requests
    assert 0 < counts["v2"] <= requests * share + 10
