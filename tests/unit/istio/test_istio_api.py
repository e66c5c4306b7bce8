"""The Kubernetes API: how it is asked, and how its refusals find their way to lines of files."""

import re
import socket

import pytest
from fake_api import FakeApi, serving

from testbed.backends.istio.api import ApiRefused, KubeApi
from testbed.backends.istio.applying import LAB_LABEL, Change, LabResources
from testbed.backends.istio.kubeconfig import Access
from testbed.documents import parse
from testbed.errors import BadInput, LabError, MeshError
from testbed.host.namespaces import HostNetwork
from testbed.pki import LabCa
from testbed.resources import ResourceSet, load

MANIFESTS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: echo
spec:
  hosts: [echo]
  http:
    - route:
        - destination: {host: echo, subset: v1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: rule
spec:
  host: echo
  subsets:
    - {name: v1, labels: {version: v1}}
"""


def resources(text=MANIFESTS):
    return load(parse(text, "mesh.yaml"))


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as api:
        yield api


@pytest.fixture
def lab(api):
    return LabResources(api, "small")


# The connection


def test_a_path_comes_from_what_the_api_says_of_its_kinds_which_is_asked_once(server, api):
    path = api.path("networking.istio.io/v1", "VirtualService", "default", "echo")
    assert path == "/apis/networking.istio.io/v1/namespaces/default/virtualservices/echo"
    api.path("networking.istio.io/v1", "Gateway")
    assert len(server.asked) == 1
    with pytest.raises(ApiRefused, match="no such kind"):
        api.path("networking.istio.io/v1", "Nothing")


def test_an_apply_is_server_side_by_our_own_manager_and_strict(server, api):
    api.apply("/apis/networking.istio.io/v1/namespaces/a/gateways/b", {"kind": "Gateway"})
    [(method, _, query)] = server.asked
    assert method == "PATCH"
    assert query == {"fieldManager": "testbed", "force": "true", "fieldValidation": "Strict"}


def test_a_list_is_read_to_its_last_page(server, api):
    server.page = 2
    base = "/apis/networking.istio.io/v1/namespaces/a/gateways"
    for name in "abcde":
        server.objects[f"{base}/{name}"] = {"metadata": {"name": name}}
    found = api.every("/apis/networking.istio.io/v1/gateways")
    assert [o["metadata"]["name"] for o in found] == list("abcde")


def test_a_connection_is_kept_and_made_again_after_it_was_closed(server):
    made = []

    def dial(address, port, limit):
        made.append(address)
        return socket.create_connection((address, port), limit)

    api = KubeApi(server.access, dial)
    for hang_up in (False, False, True, False):
        server.hang_up = hang_up
        api.get("/apis/networking.istio.io/v1")
    api.close()
    assert made == ["127.0.0.1"] * 2


def test_an_api_that_is_not_there_is_named(server, tmp_path):
    with serving(tmp_path) as gone:
        access = gone.access
    with pytest.raises(LabError, match=rf"API 127.0.0.1:{access.port}: GET /apis: .*refused"):
        KubeApi(access, HostNetwork().dial, 2).get("/apis")


def test_an_api_with_another_ca_is_not_spoken_to(server):
    other = Access(
        server.access.host,
        server.access.port,
        LabCa.create("other").roots.decode(),
        server.access.certificate,
        server.access.key,
    )
    with pytest.raises(LabError, match="certificate verify failed"):
        KubeApi(other, HostNetwork().dial).get("/apis")
    assert server.asked == []


# Applying


def test_what_is_applied_is_marked_and_read_back_as_it_was_given(server, lab):
    change = lab.apply(resources())
    assert [k.name for k in change.created] == ["echo", "rule"]
    assert {o["metadata"]["labels"][LAB_LABEL] for o in server.objects.values()} == {"small"}
    assert {r.key: r for r in lab.applied()} == {r.key: r for r in resources()}


def test_what_others_refer_to_goes_in_first_and_away_last(server, lab):
    lab.apply(resources())
    lab.apply(ResourceSet())
    assert server.writes() == [("PATCH", "rule"), ("PATCH", "echo"), ("DELETE", "echo"), ("DELETE", "rule")]


def test_the_same_again_writes_nothing(server, lab):
    lab.apply(resources())
    before = len(server.writes())
    assert lab.apply(resources()) == Change()
    assert len(server.writes()) == before


def test_only_what_differs_is_written(server, lab):
    lab.apply(resources())
    change = lab.apply(resources(MANIFESTS.replace("subset: v1", "subset: v2")))
    assert [k.name for k in change.changed] == ["echo"]
    assert server.writes()[2:] == [("PATCH", "echo")]


def test_what_is_not_the_labs_stays(server, lab, api):
    lab.apply(resources())
    LabResources(api, "other").apply(
        resources(MANIFESTS.replace("name: rule", "name: theirs").replace("name: echo", "name: too"))
    )
    assert [k.name for k in lab.apply(ResourceSet()).removed] == ["rule", "echo"]
    assert sorted(p.rpartition("/")[2] for p in server.objects) == ["theirs", "too"]


@pytest.mark.parametrize(("owner", "whose"), [("other", "lab other's"), (None, "not made by a lab")])
def test_what_somebody_else_made_under_that_name_is_not_taken_over(server, lab, api, owner, whose):
    path = api.path("networking.istio.io/v1", "VirtualService", "default", "echo")
    theirs = {"metadata": {"name": "echo", "namespace": "default", "labels": {LAB_LABEL: owner} if owner else {}}}
    server.objects[path] = theirs
    with pytest.raises(
        BadInput, match=f"mesh.yaml:4:3: .*VirtualService default/echo is in the cluster already, {whose}"
    ):
        lab.apply(resources())
    assert server.objects == {path: theirs}


def test_a_diff_changes_nothing(server, lab):
    lab.diff(resources())
    assert server.objects == {}


# Refusals, in the forms that an API server of Kubernetes 1.35 gives them


@pytest.mark.parametrize(
    ("code", "status", "place", "says"),
    [
        (
            422,
            FakeApi.status(422, 'VirtualService "echo" is invalid', [("spec.http[0].route[0].weight", "must be at least 0"), ("<nil>", "some validation rules were not checked")]),
            "mesh.yaml:9:11: spec.http[0].route[0].weight",
            "must be at least 0",
        ),
        (
            500,
            FakeApi.status(500, "failed to create typed patch object (default/echo; networking.istio.io/v1, Kind=VirtualService): .spec.http[0].rout: field not declared in schema"),
            "mesh.yaml:8:7: spec.http[0].rout",
            "field not declared in schema",
        ),
        (
            400,
            FakeApi.status(400, 'admission webhook "validation.istio.io" denied the request: configuration is invalid: bad'),
            "mesh.yaml:4:3: metadata.name",
            "the cluster refuses it: configuration is invalid: bad",
        ),
        (422, FakeApi.status(422, "is invalid", [("<nil>", "the rule")]), "mesh.yaml:1:1", "the rule"),
        (403, FakeApi.status(403, 'admission webhook "other" denied the request: no'), "mesh.yaml:4:3: metadata.name", "no"),
        (400, b"not a Status", "mesh.yaml:4:3: metadata.name", "not a Status"),
    ],
    ids=["causes", "schema", "webhook", "whole object", "forbidding webhook", "proxy"],
)  # fmt: skip
def test_a_refusal_is_shown_at_its_place_in_the_file_and_nothing_is_changed(server, lab, code, status, place, says):
    server.refusals["echo"] = (code, status)
    with pytest.raises(BadInput) as caught:
        lab.apply(resources())
    [problem] = caught.value.problems
    assert str(problem).startswith(place)
    assert says in problem.message
    assert server.objects == {}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (403, 'virtualservices.networking.istio.io "echo" is forbidden: User "admin" cannot patch resource'),
        (429, "too many requests, please try again later"),
        (500, 'Internal error occurred: failed calling webhook "validation.istio.io": no endpoints available'),
        (503, "apiserver is shutting down"),
    ],
)
def test_an_api_that_could_not_look_at_a_resource_blames_nobodys_file(server, lab, code, says):
    server.refusals["echo"] = (code, FakeApi.status(code, says))
    with pytest.raises(ApiRefused, match=re.escape(says)):
        lab.apply(resources())
    assert server.objects == {}


def test_an_api_that_fails_in_the_middle_says_how_far_it_came(server, lab, monkeypatch):
    asked = server.answer

    def answer(method, path, body):
        if "dryRun" not in path and server.objects and method == "PATCH":
            return 503, FakeApi.status(503, "shutting down")
        return asked(method, path, body)

    monkeypatch.setattr(server, "answer", answer)
    with pytest.raises(MeshError, match="shutting down") as caught:
        lab.apply(resources())
    assert caught.value.next_step == "1 of 2 are applied; the same command goes on from there"


def test_all_refusals_are_shown_at_once(server, lab):
    for name in ("echo", "rule"):
        server.refusals[name] = (422, FakeApi.status(422, "no", [("spec", f"{name} is wrong")]))
    with pytest.raises(BadInput) as caught:
        lab.diff(resources())
    assert [p.location.line for p in caught.value.problems] == [5, 15]
