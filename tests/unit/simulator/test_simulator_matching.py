"""The simulator's matchers answer as Envoy's do."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address

import pytest
from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import ParseDict

from testbed.compiler.simulator import matching, routes
from testbed.compiler.simulator.http import _normalized
from testbed.compiler.simulator.listeners import filter_chain
from testbed.compiler.simulator.request import Connection, Http, parse_request
from testbed.errors import BadInput

HERE = ip_address("10.0.0.1")
PLAIN = Connection(HERE, ip_address("10.0.0.2"), 80)


def get(path: str = "/", host: str = "web", **headers: str) -> Http:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return Http({":method": "GET", ":path": path, ":authority": host, **named})


@pytest.mark.parametrize(
    ("matcher", "value", "expected"),
    [
        ({"string_match": {"exact": "a"}}, "a", True),
        ({"string_match": {"exact": "a"}}, "A", False),
        ({"string_match": {"exact": "a", "ignore_case": True}}, "A", True),
        ({"string_match": {"safe_regex": {"regex": "a.c"}}}, "abc", True),
        ({"string_match": {"safe_regex": {"regex": "a.c"}}}, "abcd", False),
        ({"string_match": {"contains": "b"}, "invert_match": True}, "abc", False),
        ({"string_match": {"exact": "a"}}, None, False),
        ({"string_match": {"exact": "a"}, "invert_match": True}, None, True),
        ({"string_match": {"exact": ""}, "treat_missing_header_as_empty": True}, None, True),
        ({"present_match": True}, None, False),
        ({"present_match": True, "invert_match": True}, None, True),
        ({"range_match": {"start": 1, "end": 10}}, "9", True),
        ({"range_match": {"start": 1, "end": 10}}, "10", False),
    ],
)
def test_headers(matcher: dict, value: str | None, expected: bool) -> None:
    headers = {} if value is None else {"x": value}
    assert matching.header(ParseDict({"name": "X", **matcher}, HeaderMatcher()), headers) is expected


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/", False),
        ("/a/*", "/a/b/c", False),
        ("/a/**", "/a/b/c", True),
        ("/a/**", "/a/", True),
        ("/a/**", "/a", False),
        ("/a/{name}/c", "/a/b/c", True),
        ("/a/{rest=**}", "/a/b/c", True),
        ("/a.b/*", "/axb/c", False),
    ],
)
def test_path_templates(template: str, path: str, expected: bool) -> None:
    assert matching.path_template(template, path) is expected


@pytest.mark.parametrize(
    ("match", "request_", "expected"),
    [
        ({"prefix": "/a"}, get("/ab"), True),
        ({"prefix": "/a", "case_sensitive": False}, get("/AB"), True),
        ({"path": "/a"}, get("/a?b=c"), True),
        ({"path": "/a"}, get("/a/"), False),
        ({"path_separated_prefix": "/a"}, get("/a/b"), True),
        ({"path_separated_prefix": "/a"}, get("/ab"), False),
        ({"safe_regex": {"regex": "/[0-9]+"}}, get("/12?x=y"), True),
        ({"safe_regex": {"regex": "/[0-9]+"}}, get("/12a"), False),
        ({"prefix": "/", "query_parameters": [{"name": "q", "present_match": True}]}, get("/?q"), True),
        (
            {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}]},
            get("/?q=2&q=1"),
            False,
        ),
        ({"prefix": "/", "grpc": {}}, get(), False),
        ({"prefix": "/", "grpc": {}}, get(content_type="application/grpc+proto"), True),
    ],
)
def test_route_matches(match: dict, request_: Http, expected: bool) -> None:
    assert routes.matches(ParseDict(match, RouteMatch()), request_, PLAIN, {}) is expected


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("a.b.example", "exact"),
        ("A.B.example:8080", "exact"),
        ("x.b.example", "longer"),
        ("x.example", "shorter"),
        ("web.anything", "prefix"),
        ("else", "all"),
    ],
)
def test_virtual_hosts_go_by_exactness(host: str, found: str) -> None:
    names = {"all": "*", "prefix": "web.*", "shorter": "*.example", "longer": "*.b.example", "exact": "a.b.example"}
    hosts = [VirtualHost(name=n, domains=[d]) for n, d in names.items()]
    configuration = RouteConfiguration(virtual_hosts=hosts, ignore_port_in_host_matching=True)
    assert routes.virtual_host(configuration, get(host=host)).name == found


def test_a_route_that_takes_a_share_leaves_the_rest_to_the_next() -> None:
    share = {"default_value": {"numerator": 25}}
    host = ParseDict(
        {
            "routes": [
                {"name": "a", "match": {"prefix": "/", "runtime_fraction": share}},
                {"name": "b", "match": {"prefix": "/"}},
            ]
        },
        VirtualHost(),
    )
    found = [(c.probability, c.route.name) for c in routes.choices(host, get(), PLAIN, {})]
    assert found == [(Fraction(1, 4), "a"), (Fraction(3, 4), "b")]


def test_a_chain_that_lost_an_earlier_criterion_does_not_come_back() -> None:
    chains = [
        {"name": "port", "filter_chain_match": {"destination_port": 80, "transport_protocol": "tls"}},
        {"name": "any", "filter_chain_match": {"transport_protocol": "raw_buffer"}},
    ]
    listener = Listener(filter_chains=[ParseDict(c, FilterChain()) for c in chains])
    assert filter_chain(listener, PLAIN, True) is None
    other = Connection(HERE, HERE, 81)
    assert filter_chain(listener, other, True).name == "any"


def test_application_protocols_need_their_inspector() -> None:
    chains = [
        {"name": "http", "filter_chain_match": {"application_protocols": ["http/1.1"]}},
        {"name": "tcp", "filter_chain_match": {}},
    ]
    listener = Listener(filter_chains=[ParseDict(c, FilterChain()) for c in chains])
    assert filter_chain(listener, PLAIN, True).name == "tcp"
    listener.listener_filters.add(name="envoy.filters.listener.http_inspector")
    assert filter_chain(listener, PLAIN, True).name == "http"
    assert filter_chain(listener, PLAIN, False).name == "tcp"


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/a/./b", "/a/b"),
        ("/a/../b?x=/../y", "/b?x=/../y"),
        ("/a/%2e%2E/b", "/b"),
        ("/a\\b", "/a/b"),
        ("/a/..", "/"),
    ],
)
def test_paths_are_made_canonical(path: str, canonical: str) -> None:
    assert _normalized(path) == canonical


def test_addresses_lie_in_blocks() -> None:
    block = ParseDict({"address_prefix": "10.0.0.0", "prefix_len": 8}, CidrRange())
    assert matching.in_block(block, HERE)
    assert not matching.in_block(block, ip_address("11.0.0.1"))
    assert not matching.in_block(block, ip_address("::1"))


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "tcp://a", "http://a:99999/"])
def test_a_url_that_cannot_be_asked_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput, match="URL"):
        parse_request("client", url)


def test_a_scheme_may_be_left_out() -> None:
    request = parse_request("client", "reviews:9080/reviews/1", headers=["Host: other", "X-A: b: c"])
    assert (request.scheme, request.host, request.port) == ("http", "reviews", 9080)
    assert request.http().host == "other"
    assert request.http().headers["x-a"] == "b: c"
