"""Names and what they match, and what one compilation keeps for the next."""

from __future__ import annotations

import pytest

from testbed.compiler.memory import CompileCache
from testbed.compiler.names import domains, is_subset, matches, most_specific, qualified, qualified_gateway


@pytest.mark.parametrize(
    ("host", "namespace", "full"),
    [
        ("reviews", "a", "reviews.a.svc.cluster.local"),
        ("Reviews.b", "a", "reviews.b"),
        ("*", "a", "*"),
        ("*.com", "a", "*.com"),
    ],
)
def test_only_names_without_a_dot_are_short(host, namespace, full):
    assert qualified(host, namespace) == full


@pytest.mark.parametrize(
    ("name", "full"),
    [("gw", "a/gw"), ("b/gw", "b/gw"), ("./gw", "a/gw"), ("mesh", "mesh"), ("gw.b.svc.cluster.local", "b/gw")],
)
def test_gateways_are_named_with_their_namespace(name, full):
    assert qualified_gateway(name, "a") == full


@pytest.mark.parametrize(
    ("one", "other", "together", "inside"),
    [
        ("a.com", "a.com", True, True),
        ("a.com", "*.com", True, True),
        ("*.com", "a.com", True, False),
        ("*.a.com", "*.com", True, True),
        ("*.com", "*.a.com", True, False),
        ("*", "*.com", True, False),
        ("*.b.com", "*.a.com", False, False),
        ("a.com", "b.com", False, False),
    ],
)
def test_wildcards_cover_what_ends_like_them(one, other, together, inside):
    assert matches(one, other) is together
    assert matches(other, one) is together
    assert is_subset(one, other) is inside


def test_the_longest_wildcard_is_the_most_specific():
    wild = {"*": 1, "*.com": 2, "*.a.com": 3}
    assert most_specific("x.a.com", {}, wild) == 3
    assert most_specific("x.b.com", {}, wild) == 2
    assert most_specific("x.b.com", {"x.b.com": 4}, wild) == 4
    assert most_specific("x.org", {}, {"*.com": 2}) is None


def test_short_names_are_for_the_services_own_namespace():
    host = "web.a.svc.cluster.local"
    assert "web" in domains(host, (), "a")
    assert "web" not in domains(host, (), "b")
    assert "web.a" in domains(host, (), "b")
    assert domains("x.example", ("1.2.3.4", "0.0.0.0"), "a") == ["x.example", "x.example.", "1.2.3.4"]


def test_what_was_not_used_is_forgotten_and_what_it_was_made_of_is_kept():
    cache, made = CompileCache(), []

    def part(name: str) -> str:
        return cache.get(name, lambda: made.append(name) or name)

    def whole() -> str:
        return cache.get("whole", lambda: part("part") + part("other"))

    whole(), part("alone")
    cache.sweep()
    whole()  # known: its parts are not asked for
    cache.sweep()
    part("part"), part("alone")
    assert made == ["part", "other", "alone", "alone"]


def test_a_failed_result_is_not_kept():
    cache = CompileCache()
    with pytest.raises(ZeroDivisionError):
        cache.get("x", lambda: 1 / 0)
    assert cache.get("x", lambda: 2) == 2
