"""Documents to resources and back."""

from __future__ import annotations

import pytest

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.resources.kinds import KINDS
from testbed.resources.loading import dump, load, resource
from testbed.resources.resource import Key
from testbed.resources.values import StringMatch, duration_text, seconds
from testbed.resources.virtual_service import HTTPRetry, HTTPRoute, VirtualService

REVIEWS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, labels: {team: books}}
spec:
  hosts: [reviews]
  http:
    - match: [{uri: {prefix: /reviews}}]
      route: [{destination: {host: reviews, subset: v1}}]
      timeout: 1.5s
      retries: {attempts: 3, perTryTimeout: 250ms}
"""


def one(text: str):
    (found,) = load(parse(text, "f.yaml"))
    return found


def problems(text: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        load(parse(text, "f.yaml"))
    return [f"{p.location.field}: {p.message} => {p.next_step}" for p in caught.value.problems]


def test_a_resource_has_its_key_and_its_spec():
    found = one(REVIEWS)
    assert found.key == Key("networking.istio.io", "VirtualService", "default", "reviews")
    assert found.labels == {"team": "books"}
    http = found.spec.http[0]
    assert (http.timeout, http.retries.attempts, http.retries.per_try_timeout) == (1.5, 3, 0.25)
    assert http.match[0].uri == StringMatch(prefix="/reviews")


def test_a_resource_knows_where_each_field_stands():
    found = one(REVIEWS)
    place = found.locate("spec", "http", 0, "retries", "perTryTimeout")
    assert (place.file, place.line, place.column) == ("f.yaml", 10, 30)


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_every_version_of_the_api_is_read_as_the_same(version):
    assert one(REVIEWS.replace("/v1\n", f"/{version}\n")).spec == one(REVIEWS).spec


def test_a_namespace_that_is_not_said_is_the_callers():
    (found,) = load(parse(REVIEWS, "f.yaml"), namespace="shop")
    assert found.namespace == "shop"


def test_a_list_stands_for_its_items():
    items = "\n".join(f"    {line}" for line in REVIEWS.splitlines())
    text = f"apiVersion: v1\nkind: List\nitems:\n  -\n{items}\n"
    found = one(text)
    assert found.name == "reviews"
    assert found.locate("spec", "hosts").line == 9


def test_a_null_is_no_value():
    assert one(REVIEWS + "  gateways: null\n").spec == one(REVIEWS).spec


def test_kubernetes_own_kinds_are_left_out_and_named():
    resources = load(parse("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\n" + REVIEWS, "f.yaml"))
    assert len(resources) == 1
    (note,) = resources.ignored
    assert "Service is left out" in note.message


def test_a_program_can_make_resources_that_load_from_their_dump():
    spec = VirtualService(hosts=("a",), http=(HTTPRoute.model_validate({"directResponse": {"status": 503}}),))
    made = resource(spec, "a", namespace="shop")
    assert list(load(parse(dump([made]), "f.yaml"))) == [made]
    assert "shop/a" in str(made.locate("spec", "http"))


def test_equal_content_in_other_places_is_equal():
    assert one(REVIEWS) == one("# a comment\n" + REVIEWS)
    assert one(REVIEWS) != one(REVIEWS.replace("attempts: 3", "attempts: 2"))


def test_models_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        one(REVIEWS).spec.hosts = ()


def test_names_of_python_are_no_names_of_yaml():
    assert problems(REVIEWS.replace("perTryTimeout", "per_try_timeout")) == [
        "spec.http[0].retries.per_try_timeout: unknown field 'per_try_timeout' => did you mean perTryTimeout?"
    ]
    assert HTTPRetry(per_try_timeout=1.0).per_try_timeout == 1.0


def test_a_value_that_is_refused_says_why():
    text = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x}
spec: {hosts: ["*.example.com"], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
"""
    (said,) = problems(text)
    assert said.startswith("spec.resolution: the value is refused")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1s", 1), ("1.5s", 1.5), ("100ms", 0.1), ("1h30m", 5400), ("0", 0), ("0s", 0), ("2us", 2e-6), (".5s", 0.5)],
)
def test_durations_are_read_as_go_writes_them(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "1", "s", "1 s", "1d", "1s2", "-", "1e3s", 5, None, "9" * 100 + "h"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


@pytest.mark.parametrize("value", [0.001, 0.25, 1.0, 1.5, 3600.0, 86400.0])
def test_a_duration_is_written_so_that_it_reads_the_same(value):
    assert seconds(duration_text(value)) == value


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.group}/{k.name}")
def test_every_kind_names_its_unknown_fields(kind):
    text = f"apiVersion: {kind.api_version}\nkind: {kind.name}\nmetadata: {{name: x}}\nspec: {{nonsense: 1}}\n"
    assert any("unknown field 'nonsense'" in p for p in problems(text))
