"""Resources in a real cluster's API: the facts that tests/unit/istio states of a stand-in.

TESTBED_KUBECONFIG names a kubeconfig of a cluster that has Istio's definitions.  Resources are made in its
namespaces default and istio-system with the label of a lab that no inventory has, and taken away again.
"""

import json
import os
from pathlib import Path

import pytest

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.applying import LAB_LABEL, LabResources
from testbed.backends.istio.kubeconfig import read_access
from testbed.documents import Document, parse
from testbed.errors import BadInput
from testbed.host.directories import testbed_home as home
from testbed.host.namespaces import HostNetwork
from testbed.resources import Resource, ResourceSet, load

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def api():
    file = os.environ.get("TESTBED_KUBECONFIG", "")
    if not file:
        pytest.skip("TESTBED_KUBECONFIG names no cluster")
    api = KubeApi(read_access(Path(file).read_text(), file), HostNetwork().dial)
    yield api
    api.close()


@pytest.fixture
def lab(api):
    lab = LabResources(api, "testbed-full-tests")
    yield lab
    lab.apply(ResourceSet())


def shipped(name):
    files = sorted((home() / "playbooks" / "resources" / name).glob("*.yaml"))
    return load([d for f in files for d in parse(f.read_text(), f.name)])


def by_key(resources):
    return {r.key: r for r in resources}


@pytest.mark.parametrize("name", ["bookinfo", "two-nodes"])
def test_what_is_shipped_is_taken_unchanged_and_is_stable(lab, name):
    lab.apply(shipped(name))
    assert by_key(lab.applied()) == by_key(shipped(name))
    assert lab.apply(shipped(name)).is_empty


def test_what_is_no_longer_wanted_goes_and_nothing_else(lab, api):
    other = LabResources(api, "testbed-full-others")
    try:
        server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example]}"
        text = f"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: theirs}}\nspec: {{servers: [{server}]}}\n"
        others = load(parse(text, "x"))
        other.apply(others)
        lab.apply(shipped("bookinfo"))
        change = lab.apply(shipped("two-nodes"))
        assert {k.name for k in change.removed} == {r.name for r in shipped("bookinfo")} - {"default"}
        assert by_key(lab.applied()) == by_key(shipped("two-nodes"))
        assert [r.name for r in other.applied()] == ["theirs"]
    finally:
        other.apply(ResourceSet())


def test_a_field_that_is_dropped_from_a_file_is_dropped_and_another_managers_stays(lab, api):
    text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a], http: [{%sroute: [{destination: {host: a}}]}]}\n"
    lab.apply(load(parse(text % "timeout: 1s, ", "v.yaml")))
    path = api.path("networking.istio.io/v1", "VirtualService", "default", "v")
    theirs = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "v", "annotations": {"who": "else"}},
    }
    api._ask(
        "PATCH",
        path,
        {"fieldManager": "else"},
        json.dumps(theirs).encode(),
        "application/apply-patch+yaml",
    )
    assert [k.name for k in lab.apply(load(parse(text % "", "v.yaml"))).changed] == ["v"]
    now = api.get(path)
    assert "timeout" not in now["spec"]["http"][0]
    assert now["metadata"]["annotations"] == {"who": "else"}
    assert now["metadata"]["labels"][LAB_LABEL] == "testbed-full-tests"


class Unchecked(Resource):
    """A resource whose manifest goes to the cluster as it is written, past our own checks."""

    def to_plain(self):
        metadata = {"namespace": self.namespace, **self.document.value["metadata"]}
        return {**self.document.value, "metadata": metadata}


_GOOD = {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]}


def unchecked(text):
    [document] = parse(text, "bad.yaml")
    value = document.value
    good = load([Document("x", {**value, "spec": _GOOD})])
    first = next(iter(good))
    return Unchecked(first.kind, first.api_version, first.name, first.namespace, first.spec, document=document)


HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n"


@pytest.mark.parametrize(
    ("spec", "place", "says"),
    [
        ("  hosts: [a]\n  htttp: []\n", "bad.yaml:6:3: spec.htttp", "field not declared in schema"),
        ("  hosts: a\n", "bad.yaml:5:3: spec.hosts", "expected list"),
        ("  hosts: [a]\n  http:\n  - timeout: 1x\n", "bad.yaml:7:5: spec.http[0].timeout", "duration"),
    ],
)
def test_what_the_cluster_refuses_is_located_and_changes_nothing(lab, spec, place, says):
    wanted = ResourceSet([*shipped("two-nodes"), unchecked(HEAD + spec)])
    with pytest.raises(BadInput) as caught:
        lab.apply(wanted)
    [problem] = caught.value.problems
    assert str(problem).startswith(place), str(problem)
    assert says in problem.message
    assert len(lab.applied()) == 0
