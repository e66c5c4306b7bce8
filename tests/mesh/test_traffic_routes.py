"""HTTP rules of VirtualServices, by what live Envoys do with requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import MeshHarness
from traffic_mesh import CLIENT, behaving, manifest, routes, rule, said, started, to, together, versions


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    yield from started()


def ask(mesh: MeshHarness, path: str = "/", n: int = 1, host: str = "web", **how):
    return mesh.request(CLIENT, f"http://{host}{path}", n=n, **how)


V1, V2 = {"route": [to("v1")]}, {"route": [to("v2")]}


@pytest.mark.proves(
    "VirtualService.spec.http[].route[].weight",
    "VirtualService.spec.http[].route[].destination.subset",
    "VirtualService.spec.http[].route[].destination.host",
    "DestinationRule.spec.subsets[].labels{}",
)
def test_weights_split_requests(mesh):
    mesh.apply(together(routes({"route": [to("v1", 80), to("v2", 20)]}), rule()))
    counts = versions(ask(mesh, n=400))
    assert counts.keys() == {"v1", "v2"}
    assert 30 <= counts["v2"] <= 135  # 80 expected; outside of this once in 10**9


@pytest.mark.parametrize(
    ("condition", "matching", "other"),
    [
        pytest.param({"uri": {"exact": "/a"}}, {"path": "/a?x=1"}, {"path": "/a/"}, id="uri-exact"),
        pytest.param({"uri": {"prefix": "/a"}}, {"path": "/ab"}, {"path": "/A"}, id="uri-prefix"),
        pytest.param({"uri": {"regex": "/[0-9]+"}}, {"path": "/12"}, {"path": "/12/x"}, id="uri-regex"),
        pytest.param(
            {"uri": {"prefix": "/a"}, "ignoreUriCase": True}, {"path": "/AB"}, {"path": "/b"}, id="uri-any-case"
        ),
        pytest.param({"method": {"exact": "PUT"}}, {"method": "PUT"}, {"method": "POST"}, id="method"),
        pytest.param({"scheme": {"exact": "http"}}, {}, None, id="scheme"),
        pytest.param(
            {"authority": {"prefix": "web.default"}}, {"host": "web.default"}, {"host": "web"}, id="authority"
        ),
        pytest.param(
            {"headers": {"x-user": {"exact": "ann"}}},
            {"headers": {"x-user": "ann"}},
            {"headers": {"x-user": "anna"}},
            id="header-exact",
        ),
        pytest.param(
            {"headers": {"x-user": {"prefix": "an"}}},
            {"headers": {"x-user": "ann"}},
            {"headers": {"x-user": "bob"}},
            id="header-prefix",
        ),
        pytest.param(
            {"headers": {"x-user": {"regex": "a.+"}}},
            {"headers": {"x-user": "ann"}},
            {"headers": {"x-user": "a"}},
            id="header-regex",
        ),
        pytest.param({"headers": {"x-user": {}}}, {"headers": {"x-user": ""}}, {}, id="header-present"),
        pytest.param(
            {"withoutHeaders": {"x-user": {"exact": "ann"}}},
            {},
            {"headers": {"x-user": "ann"}},
            id="without-header-value",
        ),
        pytest.param({"withoutHeaders": {"x-user": {}}}, {}, {"headers": {"x-user": "b"}}, id="without-header"),
        pytest.param(
            {"queryParams": {"q": {"exact": "1"}}}, {"path": "/?q=1&r=2"}, {"path": "/?q=2"}, id="query-exact"
        ),
        pytest.param(
            {"queryParams": {"q": {"prefix": "a"}}}, {"path": "/?q=ab"}, {"path": "/?q=b"}, id="query-prefix"
        ),
        pytest.param(
            {"queryParams": {"q": {"regex": "[a-c]"}}}, {"path": "/?q=b"}, {"path": "/?q=bb"}, id="query-regex"
        ),
        pytest.param({"sourceLabels": {"app": "client"}}, {}, None, id="source-labels"),
        pytest.param({"sourceLabels": {"app": "else"}}, None, {}, id="source-labels-of-others"),
        pytest.param({"sourceNamespace": "default"}, {}, None, id="source-namespace"),
        pytest.param({"sourceNamespace": "other"}, None, {}, id="source-namespace-of-others"),
        pytest.param({"port": 80}, {}, None, id="port"),
        pytest.param({"port": 81}, None, {}, id="another-port"),
        pytest.param({"gateways": ["mesh"]}, {}, None, id="mesh-gateway"),
        pytest.param({"gateways": ["front"]}, None, {}, id="another-gateway"),
    ],
)
@pytest.mark.proves(
    "VirtualService.spec.http[].match[].uri.*",
    "VirtualService.spec.http[].match[].ignoreUriCase",
    "VirtualService.spec.http[].match[].method.exact",
    "VirtualService.spec.http[].match[].scheme.exact",
    "VirtualService.spec.http[].match[].authority.prefix",
    "VirtualService.spec.http[].match[].headers{}.*",
    "VirtualService.spec.http[].match[].withoutHeaders{}.exact",
    "VirtualService.spec.http[].match[].queryParams{}.*",
    "VirtualService.spec.http[].match[].sourceLabels{}",
    "VirtualService.spec.http[].match[].sourceNamespace",
    "VirtualService.spec.http[].match[].port",
    "VirtualService.spec.http[].match[].gateways[]",
)
def test_a_condition_holds_for_what_it_says(mesh, condition, matching, other):
    mesh.apply(together(routes({"match": [condition], **V2}, V1), rule()))
    if matching is not None:
        assert versions(ask(mesh, **matching)) == {"v2": 1}
    if other is not None:
        assert versions(ask(mesh, **other)) == {"v1": 1}


def test_the_first_rule_that_matches_decides(mesh):
    both = {"headers": {"x-a": {"exact": "1"}}, "uri": {"prefix": "/one"}}
    either = [{"uri": {"prefix": "/two"}}, {"uri": {"prefix": "/three"}}]
    mesh.apply(together(routes({"match": [both], **V2}, {"match": either, **V2}, {**V1}, {**V2}), rule()))
    assert versions(ask(mesh, "/one", headers={"x-a": "1"})) == {"v2": 1}
    assert versions(ask(mesh, "/one")) == {"v1": 1}
    assert versions(ask(mesh, "/three")) == {"v2": 1}
    assert versions(ask(mesh, "/four")) == {"v1": 1}


@pytest.mark.proves("VirtualService.spec.http[].headers.*", "VirtualService.spec.http[].route[].headers.*")
def test_headers_are_set_added_and_removed(mesh):
    operations = {
        "request": {"set": {"x-set": "new"}, "add": {"x-add": "more"}, "remove": ["x-gone"]},
        "response": {"set": {"y-set": "new"}, "remove": ["x-version"]},
    }
    own = {"request": {"set": {"x-one": "v1"}}, "response": {"add": {"y-one": "v1"}}}
    mesh.apply(together(routes({"headers": operations, "route": [to("v1", headers=own)]}), rule()))
    (answer,) = ask(mesh, headers={"x-set": "old", "x-add": "first", "x-gone": "here"})
    seen = answer.json()["headers"]
    assert dict(seen)["x-set"] == "new"
    assert [v for k, v in seen if k == "x-add"] == ["first", "more"]
    assert "x-gone" not in dict(seen)
    assert dict(seen)["x-one"] == "v1"
    assert (answer.headers["y-set"], answer.headers["y-one"]) == ("new", "v1")
    assert "x-version" not in answer.headers


@pytest.mark.proves("VirtualService.spec.http[].redirect.*")
def test_redirects_name_another_place(mesh):
    mesh.apply(
        routes(
            {"match": [{"uri": {"exact": "/a"}}], "redirect": {"uri": "/b", "authority": "else.example"}},
            {
                "match": [{"uri": {"exact": "/c"}}],
                "redirect": {"scheme": "https", "port": 8443, "redirectCode": 307},
            },
            {"redirect": {"derivePort": "FROM_REQUEST_PORT", "scheme": "https", "redirectCode": 302}},
        )
    )
    found = [(a.status, a.headers["location"]) for path in ("/a", "/c", "/d") for a in ask(mesh, path)]
    assert found == [(301, "http://else.example/b"), (307, "https://web:8443/c"), (302, "https://web:80/d")]


@pytest.mark.proves("VirtualService.spec.http[].directResponse.*")
def test_direct_responses_are_the_proxys_own(mesh):
    mesh.apply(
        routes(
            {"match": [{"uri": {"exact": "/a"}}], "directResponse": {"status": 503, "body": {"string": "closed"}}},
            {"directResponse": {"status": 418, "body": {"bytes": "aGVsbG8="}}},
        )
    )
    found = [(a.status, a.body) for path in ("/a", "/b") for a in ask(mesh, path)]
    assert found == [(503, b"closed"), (418, b"hello")]


@pytest.mark.proves("VirtualService.spec.http[].rewrite.*")
def test_paths_and_authority_are_rewritten(mesh):
    expression = {"match": "^/service/([^/]+)(/.*)$", "rewrite": r"\2/instance/\1"}
    mesh.apply(
        together(
            routes(
                {
                    "match": [{"uri": {"prefix": "/old"}}],
                    "rewrite": {"uri": "/new", "authority": "inside.example"},
                    **V1,
                },
                {"rewrite": {"uriRegexRewrite": expression}, **V1},
            ),
            rule(),
        )
    )
    (answer,) = ask(mesh, "/old/page?q=1")
    assert (answer.json()["path"], said(answer)["host"]) == ("/new/page?q=1", "inside.example")
    (answer,) = ask(mesh, "/service/foo/v1/api")
    assert answer.json()["path"] == "/v1/api/instance/foo"


@pytest.mark.proves("VirtualService.spec.http[].timeout")
def test_a_slow_answer_is_cut_off(mesh):
    mesh.apply(together(routes({"timeout": "300ms", **V1}), rule()))
    with behaving(mesh, "web-v1", delay=2):
        (answer,) = ask(mesh)
    assert answer.status == 504
    assert 0.25 < answer.seconds < 1.5


def test_there_is_no_timeout_by_default(mesh):
    """Envoy's own would be 15 seconds; a quarter of that tells nothing, the configuration does (golden tests)."""
    mesh.apply(together(routes(V1), rule()))
    with behaving(mesh, "web-v1", delay=1.5):
        assert [a.status for a in ask(mesh)] == [200]


@pytest.mark.proves("VirtualService.spec.http[].retries.*")
@pytest.mark.parametrize(
    ("retries", "how", "calls", "status"),
    [
        pytest.param({"attempts": 3, "retryOn": "5xx"}, {"status": 500}, 4, 500, id="three-after-the-first"),
        pytest.param({"attempts": 2, "retryOn": "500"}, {"status": 500}, 3, 500, id="by-status-code"),
        pytest.param({"attempts": 2, "retryOn": "501"}, {"status": 500}, 1, 500, id="another-status-code"),
        pytest.param({"attempts": 0}, {"status": 503}, 1, 503, id="none"),
        pytest.param(None, {"status": 503}, 1, 503, id="default-takes-503-for-an-answer"),
        pytest.param({"attempts": 2}, {"status": 500}, 1, 500, id="default-conditions"),
        pytest.param({"attempts": 5, "retryOn": "5xx"}, {"status": 500, "times": 2}, 3, 200, id="until-it-works"),
        pytest.param(
            {"attempts": 2, "perTryTimeout": "200ms", "retryOn": "5xx"}, {"delay": 1}, 3, 504, id="slow-tries"
        ),
        # the callee's own proxy answers 503 for its program, so the caller sees no reset
        pytest.param({"attempts": 2, "retryOn": "reset"}, {"abort": True}, 1, 503, id="reset-behind-a-sidecar"),
        pytest.param({"attempts": 2, "retryOn": "503"}, {"abort": True}, 3, 503, id="its-503"),
    ],
)
def test_retries_are_seen_at_the_backend(mesh, retries, how, calls, status):
    http = {"route": [to("v1")]} | ({"retries": retries} if retries is not None else {})
    mesh.apply(together(routes(http), rule()))
    mesh.clear_logs()
    with behaving(mesh, "web-v1", **how):
        (answer,) = ask(mesh)
    assert (len(mesh.backend_log("web-v1")), answer.status) == (calls, status)


@pytest.mark.proves("VirtualService.spec.http[].retries.backoff")
def test_retries_wait_for_the_backoff(mesh):
    mesh.apply(together(routes({"retries": {"attempts": 2, "retryOn": "5xx", "backoff": "2s"}, **V1}), rule()))
    mesh.clear_logs()
    with behaving(mesh, "web-v1", status=500):
        (answer,) = ask(mesh, timeout=20)
    times = [line["time"] for line in mesh.backend_log("web-v1")]
    assert len(times) == 3
    # Envoy waits for a random part of the interval; both being short has one chance in a thousand
    assert times[2] - times[0] > 0.1
    assert answer.status == 500


def test_a_retry_goes_to_another_endpoint(mesh):
    mesh.apply(together(routes({"retries": {"attempts": 1, "retryOn": "5xx"}, "route": [to()]}), rule()))
    with behaving(mesh, "web-v1", status=500):
        assert versions(ask(mesh, n=30)) == {"v2": 30}


@pytest.mark.proves(
    "VirtualService.spec.http[].fault.delay.fixedDelay", "VirtualService.spec.http[].fault.delay.percentage.value"
)
def test_a_delay_is_injected(mesh):
    delay = {"delay": {"fixedDelay": "600ms", "percentage": {"value": 100}}}
    mesh.apply(together(routes({"match": [{"uri": {"prefix": "/slow"}}], "fault": delay, **V1}, V1), rule()))
    (slow,), (quick,) = ask(mesh, "/slow"), ask(mesh, "/quick")
    assert slow.seconds > 0.55
    assert quick.seconds < 0.5
    assert slow.status == 200


@pytest.mark.proves("VirtualService.spec.http[].fault.abort.*")
def test_a_share_of_requests_is_aborted(mesh):
    mesh.apply(
        together(
            routes(
                {
                    "match": [{"uri": {"prefix": "/half"}}],
                    "fault": {"abort": {"httpStatus": 418, "percentage": {"value": 50}}},
                    **V1,
                },
                {"fault": {"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}, **V1},
            ),
            rule(),
        )
    )
    counts = versions(ask(mesh, "/half", n=200))
    assert counts.keys() == {"v1", "418"}
    assert 50 < counts["418"] < 150
    (answer,) = ask(mesh, "/grpc", method="POST", headers={"content-type": "application/grpc"})
    assert answer.headers["grpc-status"] == "14"


@pytest.mark.proves("VirtualService.spec.http[].mirror.*", "VirtualService.spec.http[].mirrors[].*")
def test_copies_go_to_mirrors(mesh):
    spare = {"host": "spare", "port": {"number": 80}}
    part = {"destination": {"host": "web", "subset": "v2", "port": {"number": 80}}, "percentage": {"value": 50}}
    mesh.apply(
        together(
            routes(
                {"match": [{"uri": {"prefix": "/copied"}}], "mirror": spare, **V1},
                {"mirrors": [part, {"destination": spare}], **V1},
            ),
            rule(),
        )
    )
    mesh.clear_logs()
    assert versions(ask(mesh, "/copied", n=100)) == {"v1": 100}
    mesh.access_log("spare-v1", at_least=100)
    copies = mesh.backend_log("spare-v1")
    assert len(copies) == 100
    assert dict(copies[0]["headers"])["host"] == "web", "not Envoy's own web-shadow"
    assert not mesh.backend_log("web-v2")
    assert versions(ask(mesh, "/several", n=100)) == {"v1": 100}
    mesh.access_log("spare-v1", at_least=200)
    assert 20 < len(mesh.backend_log("web-v2")) < 80


@pytest.mark.proves("VirtualService.spec.http[].corsPolicy.*")
def test_preflights_are_answered_by_the_proxy(mesh):
    policy = {
        "allowOrigins": [{"exact": "https://a.example"}, {"regex": "https://b.*"}],
        "allowMethods": ["GET", "PUT"],
        "allowHeaders": ["x-a"],
        "exposeHeaders": ["x-b"],
        "maxAge": "1h",
        "allowCredentials": True,
    }
    mesh.apply(together(routes({"corsPolicy": policy, **V1}), rule()))
    preflight = {"origin": "https://a.example", "access-control-request-method": "PUT"}
    (answer,) = ask(mesh, method="OPTIONS", headers=preflight)
    found = {k.removeprefix("access-control-"): v for k, v in answer.headers.items() if k.startswith("access-")}
    assert found == {
        "allow-origin": "https://a.example",
        "allow-methods": "GET,PUT",
        "allow-headers": "x-a",
        "allow-credentials": "true",
        "max-age": "3600",
        "expose-headers": "x-b",
    }
    (answer,) = ask(mesh, headers={"origin": "https://bb.example"})
    assert answer.headers["access-control-allow-origin"] == "https://bb.example"
    assert answer.headers["access-control-expose-headers"] == "x-b"
    (answer,) = ask(mesh, method="OPTIONS", headers={**preflight, "origin": "https://c.example"})
    assert answer.version == "v1"  # forwarded: unmatchedPreflights is FORWARD unless said otherwise
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.proves("VirtualService.spec.http[].delegate.*")
def test_a_delegate_narrows_what_it_is_given(mesh):
    delegate = {
        "http": [{"match": [{"uri": {"prefix": "/api/v2"}}], **V2}, {"match": [{"uri": {"prefix": "/no"}}], **V2}]
    }
    root = {"match": [{"uri": {"prefix": "/api"}}], "delegate": {"name": "leaf", "namespace": "default"}}
    mesh.apply(together(routes(root, V1), manifest("VirtualService", "leaf", delegate), rule()))
    assert versions(ask(mesh, "/api/v2/x")) == {"v2": 1}
    assert versions(ask(mesh, "/api/v1")) == {"v1": 1}
    assert versions(ask(mesh, "/no")) == {"v1": 1}


@pytest.mark.proves("VirtualService.spec.hosts[]", "VirtualService.spec.exportTo[]")
def test_hosts_are_short_full_or_wildcards_and_exported(mesh):
    answer = {"directResponse": {"status": 299}}
    for host in ("web", "web.default.svc.cluster.local", "*.default.svc.cluster.local", "*.local"):
        mesh.apply(routes(answer, host=host))
        assert [a.status for a in ask(mesh)] == [299], host
    mesh.apply(routes(answer, exportTo=["other"]))
    assert [a.status for a in ask(mesh)] == [200]
    assert [a.status for a in mesh.request("far-v1", "http://web.default/")] == [299]


def test_a_host_that_is_no_service_is_routed_on_port_80(mesh):
    mesh.apply(together(routes(V2, host="shop.example"), rule()))
    address = str(mesh.topology.workload("spare-v1").address)
    (answer,) = mesh.request(CLIENT, "http://shop.example/", connect=address)
    assert answer.version == "v2"
