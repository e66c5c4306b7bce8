"""The Gateway API's kinds as Istio's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "property"))
from istio_strategies import bookinfo

from testbed.documents import parse
from testbed.resources.gateway_api import translate
from testbed.resources.gateway_api_rules import NO_BACKEND
from testbed.resources.loading import load
from testbed.resources.resource import ResourceSet
from testbed.resources.virtual_service import HTTPRoute

GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: istio
  listeners:
    - {name: web, port: 80, protocol: HTTP, hostname: "*.example.com"}
    - name: tls
      port: 443
      protocol: HTTPS
      tls: {certificateRefs: [{name: shop-cert}]}
      allowedRoutes: {namespaces: {from: All}}
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews%(metadata)s}
spec:
  parentRefs: [{name: edge%(parent)s}]
  %(spec)s
  rules:
    - backendRefs: [{name: reviews, port: 9080}]
"""


def translated(*texts: str) -> ResourceSet:
    return translate(load(parse("---\n".join(texts), "k8s.yaml")), bookinfo())


def route(
    metadata: str = "", parent: str = ", sectionName: web", spec: str = "hostnames: [shop.example.com]"
) -> str:
    return ROUTE % {"metadata": metadata, "parent": parent, "spec": spec}


def rules(text: str, **more: str) -> tuple[HTTPRoute, ...]:
    """The rules of a VirtualService that stands for one HTTPRoute with these rules."""
    whole = route(**more).partition("  rules:")[0] + "  rules:\n" + text
    (service,) = translated(GATEWAY, whole).virtual_services
    return service.spec.http


def test_without_the_gateway_api_nothing_is_touched():
    resources = load(
        parse("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x}\n", "f")
    )
    assert translate(resources, bookinfo()) is resources


@pytest.mark.proves(
    "gateway.networking.k8s.io/Gateway.spec.gatewayClassName",
    "gateway.networking.k8s.io/Gateway.spec.listeners[].name",
    "gateway.networking.k8s.io/Gateway.spec.listeners[].port",
    "gateway.networking.k8s.io/Gateway.spec.listeners[].protocol",
    "gateway.networking.k8s.io/Gateway.spec.listeners[].tls.certificateRefs[].name",
)
def test_each_listener_is_a_gateway_of_the_labs_proxies():
    tls, web = translated(GATEWAY).gateways
    assert web.spec.selector == {"istio": "ingressgateway"}
    assert (web.spec.servers[0].port.number, web.spec.servers[0].hosts) == (80, ("*/*.example.com",))
    assert (tls.spec.servers[0].tls.mode, tls.spec.servers[0].tls.credential_name) == ("SIMPLE", "shop-cert")
    assert tls.locate("spec", "servers", 0, "port").line == 8


def test_a_route_is_bound_to_its_listener_with_the_hosts_that_both_have():
    (service,) = translated(GATEWAY, route()).virtual_services
    assert service.spec.gateways == ("default/edge~web",)
    assert service.spec.hosts == ("shop.example.com",)
    assert service.annotations == {"internal.istio.io/route-semantics": "gateway"}
    (http,) = service.spec.http
    assert http.route[0].destination.host == "reviews.default.svc.cluster.local"
    assert service.locate("spec", "http", 0, "route").line > 15


@pytest.mark.proves(
    "gateway.networking.k8s.io/Gateway.spec.listeners[].hostname",
    "gateway.networking.k8s.io/Gateway.spec.listeners[].allowedRoutes.namespaces.from",
    "HTTPRoute.spec.hostnames[]",
    "HTTPRoute.spec.parentRefs[].*",
)
@pytest.mark.parametrize(
    ("more", "hosts"),
    [
        ({"spec": "hostnames: [other.org]"}, []),
        ({"spec": "hostnames: ['*.shop.example.com']"}, ["*.shop.example.com"]),
        ({"spec": ""}, ["*.example.com"]),
        ({"parent": ", sectionName: nobody"}, []),
        ({"parent": ", port: 443"}, ["shop.example.com"]),
        ({"metadata": ", namespace: other", "parent": ", namespace: default, sectionName: web"}, []),
        (
            {"metadata": ", namespace: other", "parent": ", namespace: default, sectionName: tls"},
            ["shop.example.com"],
        ),
    ],
)
def test_a_listener_takes_routes_by_host_name_port_and_namespace(more, hosts):
    resources = translated(GATEWAY, route(**more))
    assert [h for s in resources.virtual_services for h in s.spec.hosts] == hosts
    assert bool(resources.ignored) == (not hosts)


@pytest.mark.proves(
    "HTTPRoute.spec.rules[].matches[].path.*",
    "HTTPRoute.spec.rules[].matches[].method",
    "HTTPRoute.spec.rules[].matches[].headers[].name",
)
def test_the_most_specific_match_comes_first_whatever_the_order():
    found = rules("""\
    - matches: [{path: {type: RegularExpression, value: "/a.*"}}]
      backendRefs: [{name: reviews, port: 9080}]
    - matches: [{path: {value: /a}}, {path: {value: /a/b/}}]
      backendRefs: [{name: reviews, port: 9080}]
    - matches: [{path: {value: /a/b}, method: GET}, {path: {value: /a/b}, headers: [{name: x, value: "1"}]}]
      backendRefs: [{name: reviews, port: 9080}]
    - matches: [{path: {type: Exact, value: /a}}]
      backendRefs: [{name: reviews, port: 9080}]
""")
    first = [r.match[0] for r in found]
    uris = [m.uri.exact or m.uri.prefix or m.uri.regex for m in first]
    assert uris == ["/a", "/a/b", "/a/b", "/a/b", "/a", "/a.*"]
    assert [m.method is not None for m in first[1:4]] == [True, False, False]
    assert [bool(m.headers) for m in first[1:4]] == [False, True, False]


@pytest.mark.proves(
    "HTTPRoute.spec.rules[].backendRefs[].weight",
    "HTTPRoute.spec.rules[].timeouts.*",
    "HTTPRoute.spec.rules[].retry.*",
)
def test_weights_retries_and_timeouts():
    (http,) = rules("""\
    - backendRefs: [{name: reviews, port: 9080, weight: 3}, {name: productpage, port: 9080}]
      timeouts: {request: 5s, backendRequest: 1s}
      retry: {codes: [503], attempts: 4, backoff: 100ms}
""")
    assert [part.weight for part in http.route] == [3, 1]
    assert (http.timeout, http.retries.per_try_timeout, http.retries.backoff) == (5, 1, 0.1)
    assert http.retries.retry_on.endswith(",503")


@pytest.mark.proves(
    "HTTPRoute.spec.rules[].backendRefs[].name",
    "HTTPRoute.spec.rules[].backendRefs[].port",
)
def test_no_backend_is_404_and_no_weight_is_500():
    none, zero = rules("""\
    - matches: [{path: {value: /none}}]
    - matches: [{path: {value: /a}}]
      backendRefs: [{name: reviews, port: 9080, weight: 0}]
""")
    assert (none.direct_response.status, zero.direct_response.status) == (404, 500)


@pytest.mark.proves(
    "HTTPRoute.spec.rules[].filters[].type",
    "HTTPRoute.spec.rules[].filters[].requestHeaderModifier.set[].*",
    "HTTPRoute.spec.rules[].filters[].requestHeaderModifier.remove[]",
    "HTTPRoute.spec.rules[].filters[].responseHeaderModifier.add[].*",
    "HTTPRoute.spec.rules[].filters[].urlRewrite.hostname",
    "HTTPRoute.spec.rules[].filters[].urlRewrite.path.replacePrefixMatch",
    "HTTPRoute.spec.rules[].filters[].requestMirror.backendRef.name",
    "HTTPRoute.spec.rules[].filters[].requestMirror.fraction.*",
    "HTTPRoute.spec.rules[].filters[].cors.allowOrigins[]",
    "HTTPRoute.spec.rules[].filters[].cors.maxAge",
)
def test_filters():
    (http,) = rules("""\
    - filters:
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: "1"}], remove: [b]}}
        - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: c, value: "2"}]}}
        - type: URLRewrite
          urlRewrite: {hostname: x.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /n/}}
        - type: RequestMirror
          requestMirror: {backendRef: {name: reviews, port: 9080}, fraction: {numerator: 1, denominator: 4}}
        - {type: CORS, cors: {allowOrigins: ["https://*.x.org", "*"], maxAge: 10}}
      backendRefs: [{name: reviews, port: 9080}]
""")
    assert http.headers.request.set == {"a": "1"}
    assert http.headers.request.remove == ("b",)
    assert http.headers.response.add == {"c": "2"}
    assert (http.rewrite.uri, http.rewrite.authority) == ("/n", "x.org")
    assert http.mirrors[0].percentage.value == 25
    assert http.cors_policy.max_age == 10
    assert http.cors_policy.allow_origins[0].regex == r"^https://.*\.x\.org$"


@pytest.mark.proves(
    "HTTPRoute.spec.rules[].filters[].requestRedirect.hostname",
    "HTTPRoute.spec.rules[].filters[].requestRedirect.path.replacePrefixMatch",
)
def test_a_redirect_is_302_on_the_requests_own_port():
    (http,) = rules("""\
    - filters:
        - type: RequestRedirect
          requestRedirect: {hostname: x.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
""")
    assert (http.redirect.redirect_code, http.redirect.authority) == (302, "x.org")
    assert http.redirect.derive_port == "FROM_REQUEST_PORT"
    assert http.redirect.uri == "%PREFIX()%/new"
    assert http.direct_response is None


GRANT = """\
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: "", kind: Service, name: ratings}]
"""


@pytest.mark.proves(
    "ReferenceGrant.spec.from[].*",
    "ReferenceGrant.spec.to[].*",
    "HTTPRoute.spec.rules[].backendRefs[].namespace",
)
@pytest.mark.parametrize(("grants", "host"), [([], NO_BACKEND), ([GRANT], "ratings.other.svc.cluster.local")])
def test_a_backend_of_another_namespace_wants_a_grant(grants, host):
    text = route().replace("{name: reviews, port: 9080}", "{name: ratings, namespace: other, port: 9080}")
    (service,) = translated(GATEWAY, text, *grants).virtual_services
    assert service.spec.http[0].route[0].destination.host == host


def test_a_route_for_a_service_is_for_the_mesh():
    text = route(spec="").replace(
        "{name: edge, sectionName: web}", "{group: '', kind: Service, name: reviews, port: 9080}"
    )
    (service,) = translated(text).virtual_services
    assert (service.spec.hosts, service.spec.gateways) == (("reviews.default.svc.cluster.local",), ("mesh",))
    assert service.spec.http[0].match[0].port == 9080


@pytest.mark.proves(
    "GRPCRoute.spec.rules[].matches[].method.service",
    "GRPCRoute.spec.rules[].matches[].method.method",
    "GRPCRoute.spec.parentRefs[].name",
)
def test_grpc_methods_are_paths():
    text = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: g}
spec:
  parentRefs: [{name: edge, sectionName: web}]
  rules:
    - matches: [{method: {service: a.B, method: C}}, {method: {service: a.B}}, {method: {method: C}}]
      backendRefs: [{name: reviews, port: 9080}]
"""
    (service,) = translated(GATEWAY, text).virtual_services
    uris = [(r.match[0].uri.which(), r.match[0].uri.model_dump(exclude_none=True)) for r in service.spec.http]
    assert [u for _, u in uris] == [{"exact": "/a.B/C"}, {"prefix": "/a.B/"}, {"regex": "/[^/]+/C"}]


def test_a_gateway_of_another_class_is_left_out():
    resources = translated(GATEWAY.replace("gatewayClassName: istio", "gatewayClassName: nginx"))
    assert len(resources) == 0
    assert "is not Istio's" in resources.ignored[0].message


def test_a_route_for_a_port_goes_before_those_for_the_whole_service():
    """istiod makes a VirtualService of each, and of two for one host the first by name counts."""
    service = "{group: '', kind: Service, name: reviews"
    whole = route(spec="").replace("{name: edge, sectionName: web}", service + "}")
    port = route(metadata="-port", spec="").replace("{name: edge, sectionName: web}", service + ", port: 9080}")
    found = translated(whole, port).virtual_services
    assert [s.name for s in found] == [
        "default~9080~reviews.default.svc.cluster.local",
        "default~reviews.default.svc.cluster.local",
    ]


def test_a_route_may_be_for_the_hosts_of_a_service_entry():
    entry = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec: {hosts: [a.example, b.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
"""
    parent = "{group: networking.istio.io, kind: ServiceEntry, name: outside}"
    found = translated(entry, route(spec="").replace("{name: edge, sectionName: web}", parent)).virtual_services
    assert [s.spec.hosts for s in found] == [("a.example",), ("b.example",)]
