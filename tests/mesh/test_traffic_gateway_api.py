"""Routes of the Gateway API, by what live Envoys answer at the edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from harness import MeshHarness, Response
from traffic_mesh import at_edge, behaving, said, started, together

from testbed.waiting import NotYet, wait_until


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    yield from started()


_TYPES = {"urlRewrite": "URLRewrite"}


def kubernetes(kind: str, name: str, spec: dict) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
    )


def test_routes_of_the_gateway_api_work(mesh):
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    path = {"path": {"type": "PathPrefix", "value": "/shop"}}
    rewritten = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
    }
    header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "b"}]}}
    moved = {
        "type": "RequestRedirect",
        "requestRedirect": {
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"},
            "statusCode": 302,
        },
    }
    route = {
        "parentRefs": [{"name": "edge"}],
        "hostnames": ["api.example"],
        "rules": [
            {"matches": [path], "filters": [rewritten, header], "backendRefs": [{"name": "web", "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}], "filters": [moved]},
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/gone"}}],
                "backendRefs": [{"name": "nobody", "port": 80}],
            },
        ],
    }
    mesh.apply(
        together(
            kubernetes("Gateway", "edge", {"gatewayClassName": "istio", "listeners": [listener]}),
            kubernetes("HTTPRoute", "shop", route),
        )
    )
    (answer,) = at_edge(mesh, "http://api.example/shop/item")
    assert (answer.json()["path"], said(answer)["x-a"]) == ("/item", "b")
    assert [a.status for a in at_edge(mesh, "http://api.example/shopping")] == [404]  # whole path elements
    (answer,) = at_edge(mesh, "http://api.example/old/x")
    assert (answer.status, answer.headers["location"]) == (302, "http://api.example/new/x")
    assert [a.status for a in at_edge(mesh, "http://api.example/gone")] == [500]


@pytest.mark.proves(
    "GRPCRoute.spec.hostnames[]", "GRPCRoute.spec.rules[].matches[].method.*",
    "GRPCRoute.spec.rules[].matches[].headers[].*", "GRPCRoute.spec.rules[].backendRefs[].name",
    "GRPCRoute.spec.rules[].backendRefs[].port",
    "GRPCRoute.spec.rules[].filters[].requestHeaderModifier.set[].*",
)  # fmt: skip
def test_grpc_routes_go_by_service_method_and_headers(mesh):
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    marked = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-rule", "value": "2"}]}}
    web, spare = [{"name": "web", "port": 80}], [{"name": "spare", "port": 80}]
    rules = [
        {"matches": [{"method": {"service": "shop.Cart", "method": "Add"}}], "backendRefs": spare},
        {"matches": [{"method": {"service": "shop.Cart"}}], "filters": [marked], "backendRefs": web},
        {
            "matches": [
                {"method": {"type": "RegularExpression", "service": "shop[.]V[0-9]", "method": "Get.*"}},
                {"headers": [{"name": "x-user", "value": "jason"}]},
            ],
            "backendRefs": spare,
        },
        {"matches": [{"method": {"service": "shop.Gone"}}], "backendRefs": [{"name": "nobody", "port": 80}]},
    ]
    route = {"parentRefs": [{"name": "edge"}], "hostnames": ["grpc.example"], "rules": rules}
    mesh.apply(
        together(
            kubernetes("Gateway", "edge", {"gatewayClassName": "istio", "listeners": [listener]}),
            kubernetes("GRPCRoute", "shop", route),
        )
    )

    def called(path: str, **headers: str) -> str:
        asked = {"content-type": "application/grpc", "te": "trailers", **headers}
        (answer,) = at_edge(mesh, f"http://grpc.example{path}", method="POST", headers=asked)
        service = answer.workload.partition("-")[0]
        return service + said(answer).get("x-rule", "") if service else answer.headers.get("grpc-status", "none")

    assert called("/shop.Cart/Add") == "spare"
    assert called("/shop.Cart/Take") == "web2"
    assert called("/shop.V1/GetAll") == "spare"
    assert called("/other.Service/Do", **{"x-user": "jason"}) == "spare"
    assert called("/shop.V1/Put") == "12"  # no route: UNIMPLEMENTED
    assert called("/shop.Gone/Do") == "2"  # a backend that is not there: 500, and so UNKNOWN


@pytest.mark.proves(
    "HTTPRoute.spec.rules[].filters[].requestHeaderModifier.*",
    "HTTPRoute.spec.rules[].filters[].responseHeaderModifier.*",
    "HTTPRoute.spec.rules[].filters[].requestRedirect.*",
    "HTTPRoute.spec.rules[].filters[].requestMirror.backendRef.name",
    "HTTPRoute.spec.rules[].filters[].requestMirror.backendRef.port",
    "HTTPRoute.spec.rules[].filters[].urlRewrite.*",
    "HTTPRoute.spec.rules[].filters[].type",
    "HTTPRoute.spec.rules[].backendRefs[].weight",
)
def test_filters_of_routes_act(mesh):
    def filtered(path: str, *filters: tuple[str, dict], backends: tuple[str, ...] = ("web",)) -> dict:
        named = [
            {"type": _TYPES.get(kind, kind[0].upper() + kind[1:]), kind: settings} for kind, settings in filters
        ]
        backs = {"backendRefs": [{"name": b, "port": 80, "weight": i} for i, b in enumerate(backends, 1)]}
        return {
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "filters": named,
            **(backs if backends else {}),
        }

    def changed(prefix: str) -> dict:
        return {
            "set": [{"name": f"{prefix}-set", "value": "new"}],
            "add": [{"name": f"{prefix}-add", "value": "more"}],
            "remove": [f"{prefix}-gone"],
        }

    elsewhere = {
        "scheme": "https", "hostname": "else.example", "port": 8443, "statusCode": 301,
        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/all"},
    }  # fmt: skip
    rules = [
        filtered("/asked", ("requestHeaderModifier", changed("x"))),
        filtered("/said", ("responseHeaderModifier", changed("y"))),
        filtered("/moved", ("requestRedirect", elsewhere), backends=()),
        filtered(
            "/other",
            ("urlRewrite", {"hostname": "inner", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}),
        ),
        filtered("/copied", ("requestMirror", {"backendRef": {"name": "spare", "port": 80}})),
    ]
    rules.append({**filtered("/split", backends=("web", "spare")), "filters": []})
    rules[-1]["backendRefs"][0]["weight"] = 0
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    route = {"parentRefs": [{"name": "edge"}], "hostnames": ["api.example"], "rules": rules}
    mesh.apply(
        together(
            kubernetes("Gateway", "edge", {"gatewayClassName": "istio", "listeners": [listener]}),
            kubernetes("HTTPRoute", "shop", route),
        )
    )

    def ask(path: str, **headers: str) -> Response:
        (answer,) = at_edge(mesh, f"http://api.example{path}", headers=headers)
        return answer

    old = {"-set": "old", "-add": "one", "-gone": "here"}
    headers = ask("/asked", **{f"x{k}": v for k, v in old.items()}).json()["headers"]
    assert [v for k, v in headers if k == "x-set"] == ["new"]
    assert ",".join(v for k, v in headers if k == "x-add") == "one,more"
    assert not [k for k, _ in headers if k == "x-gone"]
    own = {"y-set": "old", "y-gone": "here"}
    with behaving(mesh, "web-v1", headers=own), behaving(mesh, "web-v2", headers=own):
        answer = ask("/said")
    assert {k: v for k, v in answer.headers.items() if k.startswith("y-")} == {"y-set": "new", "y-add": "more"}
    answer = ask("/moved/x")
    assert (answer.status, answer.headers["location"]) == (301, "https://else.example:8443/all")
    answer = ask("/other/y")
    assert (answer.json()["path"], said(answer)["host"]) == ("/x", "inner")
    assert {ask("/split").workload for _ in range(4)} == {"spare-v1"}
    mesh.clear_logs()
    assert ask("/copied").workload.startswith("web")

    def copied() -> None:
        if [line["path"] for line in mesh.backend_log("spare-v1")] != ["/copied"]:
            raise NotYet("no copy")

    wait_until("the copy at spare-v1", copied, limit=10, interval=0.05)
