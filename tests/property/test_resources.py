"""What the loader promises for any resource: nothing lost, nothing added, the same again from its own text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from istio_strategies import as_documents, bookinfo, manifests

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.resources.linting import lint
from testbed.resources.loading import dump, load
from testbed.resources.values import seconds

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
PROFILE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every scalar and empty collection with its path; durations in seconds, however they are written."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)))
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    else:
        try:
            yield path, seconds(value) if isinstance(value, str) else value
        except ValueError:
            yield path, value


@PROFILE
@given(manifests(bookinfo()))
def test_every_field_that_is_set_is_in_the_model(found):
    for manifest, resource in zip(found, load(as_documents(found)), strict=True):
        assert dict(leaves(resource.to_plain()["spec"] if manifest["spec"] else {})) == dict(
            leaves(manifest["spec"])
        )


@PROFILE
@given(manifests(bookinfo()))
def test_what_is_dumped_loads_as_the_same(found):
    resources = load(as_documents(found))
    again = load(parse(dump(resources), "again.yaml"))
    assert again == resources
    assert dump(again) == dump(resources)


@PROFILE
@given(manifests(bookinfo(), most=1), st.data())
def test_a_field_with_another_name_is_never_passed_over(found, data):
    """Some name in some mapping is misspelt: there is an error at it, or it is a key of the user's own."""
    if not found:
        return
    spec = found[0]["spec"]
    places = [(node, key) for node in _mappings(spec) for key in node]
    if not places:
        return
    node, key = data.draw(st.sampled_from(places))
    node[f"{key}Zz"] = node.pop(key)
    try:
        resource = next(iter(load(as_documents(found))))
    except BadInput as e:
        assert all(p.location.line for p in e.problems)
    else:
        assert dict(leaves(resource.to_plain()["spec"])) == dict(leaves(spec))


@PROFILE
@given(manifests(bookinfo()))
def test_lint_takes_whatever_loads(found):
    documents = as_documents(found)
    resources = load(documents)
    for finding in (*lint(documents, resources, bookinfo()), *lint(documents, resources)):
        assert finding.location.line > 0
        assert finding.effect
        assert finding.advice


@PROFILE
@given(manifests(bookinfo()), manifests(bookinfo()))
def test_merging_replaces_and_appends(first, second):
    one, two = load(as_documents(first)), load(as_documents(second))
    merged = one.merged(two)
    keys = merged.keys()
    assert list(keys) == list(dict.fromkeys((*one.keys(), *two.keys())))
    assert all(merged.get(key) == (two.get(key) or one.get(key)) for key in keys)
    assert len(merged.without(two.keys())) == len(set(one.keys()) - set(two.keys()))


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _mappings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _mappings(item)


@pytest.mark.parametrize("seed", range(3))
def test_strategies_reach_every_kind(seed):
    kinds = set()

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(manifests(bookinfo()))
    def collect(found):
        kinds.update(m["kind"] for m in found)

    collect()
    assert len(kinds) == 10
