"""When a change counts as in force with Istio; the answers have the form of istiod 1.30's and Envoy 1.40's."""

import json

import pytest

from testbed.backends.istio.distribution import (
    await_known,
    await_proxies,
    read_configz,
    read_syncz,
    witness,
)
from testbed.errors import MeshError, WaitTimeout
from testbed.resources import Key

ROUTE = Key("networking.istio.io", "VirtualService", "default", "echo")
UUID = "6416fd72-cf77-4407-b18c-0a9822b27bb8"


def nonce(count, uuid=UUID):
    return f"2026-11-22T21:43:22Z/{count}{uuid}"


def sync(proxy="client.default", *, sent=(7, 7, 7), acked=None, error=""):
    kinds = ("cluster.v3.Cluster", "listener.v3.Listener", "route.v3.RouteConfiguration")
    resources = {}
    for kind, s, a in zip(kinds, sent, acked or sent, strict=True):
        resources[f"type.googleapis.com/envoy.config.{kind}"] = {"sent": nonce(s), "acked": nonce(a)} if s else {}
    if error:
        resources["type.googleapis.com/envoy.config.listener.v3.Listener"]["lastError"] = error
    return {"proxy": proxy, "resources": resources}


def config(version="41", name="echo"):
    metadata = {"name": name, "namespace": "default", "resourceVersion": version}
    return {"kind": "VirtualService", "apiVersion": "networking.istio.io/v1", "metadata": metadata}


class Istiod:
    """Answers what it is given; a list is answered one after the other, the last one for ever."""

    def __init__(self, **answers):
        self.answers = {f"/debug/{path}": list(found) for path, found in answers.items()}
        self.asked = []

    def __call__(self, path):
        self.asked.append(path)
        found = self.answers[path]
        return json.dumps(found.pop(0) if len(found) > 1 else found[0]).encode()


def envoy(*revisions, stats="cluster_manager.warming_clusters: 0\n"):
    """An admin port whose clusters have these witnesses, one after the other."""
    left = list(revisions)

    def ask(path):
        if path.startswith("/stats"):
            return stats.encode()
        revision = left.pop(0) if len(left) > 1 else left[0]
        if revision is None:
            return b"dynamic_active_clusters not found in config dump"
        names = ["outbound|9080||echo", f"testbed-revision|{revision}"]
        return json.dumps({"configs": [{"cluster": {"name": n}} for n in names]}).encode()

    return ask


def test_the_witness_reaches_every_proxy_and_carries_the_revision():
    filter_ = witness("abc")
    assert filter_["metadata"]["namespace"] == "istio-system"
    assert "workloadSelector" not in filter_["spec"]
    [patch] = filter_["spec"]["configPatches"]
    assert (patch["applyTo"], patch["match"]["context"]) == ("CLUSTER", "ANY")
    assert patch["patch"]["value"]["name"] == "testbed-revision|abc"


def test_a_nonce_tells_which_computation_it_belongs_to():
    found = read_syncz(json.dumps([sync(sent=(26, 8, 26))]).encode())["client.default"]
    assert found.versions == {"Cluster": 26, "Listener": 8, "RouteConfiguration": 26}


def test_a_count_is_told_from_the_random_digits_that_follow_it():
    entry = sync()
    for resource in entry["resources"].values():
        resource["sent"] = resource["acked"] = nonce(12, "00000000-0000-4000-8000-000000000000")
    assert set(read_syncz(json.dumps([entry]).encode())["client.default"].versions.values()) == {12}


@pytest.mark.parametrize(
    ("entry", "lag"),
    [
        (sync(), ""),
        (sync(sent=(8, 8, 7), acked=(8, 8, 7)), "has not been sent RouteConfiguration"),
        (sync(sent=(8, 7, 7)), "has not been sent Listener, RouteConfiguration"),
        (sync(sent=(8, 8, 8), acked=(8, 8, 7)), "has not acknowledged RouteConfiguration"),
        (sync(sent=(8, 9, 9)), ""),
        (sync(sent=(8, 8, 0)), ""),
    ],
    ids=["synced", "half a push", "clusters only", "unacknowledged", "newer", "no routes watched"],
)
def test_a_proxy_lags_while_a_computation_was_sent_by_half_or_is_unacknowledged(entry, lag):
    assert read_syncz(json.dumps([entry]).encode())["client.default"].lag == lag


def test_a_resource_is_known_at_its_stored_version():
    istiod = Istiod(configz=[[config("40")], [config("41")]])
    await_known(istiod, {ROUTE: "41"}, [], limit=5)
    assert len(istiod.asked) == 2
    assert read_configz(json.dumps([config()]).encode()) == {ROUTE: "41"}


@pytest.mark.parametrize(
    ("stored", "removed", "says"),
    [
        ({ROUTE: "42"}, [], "istiod has VirtualService default/echo at 41 version, the API at 42"),
        ({}, [ROUTE], "istiod still has VirtualService default/echo"),
    ],
)
def test_what_istiod_does_not_know_yet_is_named(stored, removed, says):
    with pytest.raises(WaitTimeout, match=says):
        await_known(Istiod(configz=[[config()]]), stored, removed, limit=0.01)


def test_kinds_that_istiod_turns_into_its_own_are_not_waited_for():
    route = Key("gateway.networking.k8s.io", "HTTPRoute", "default", "a")
    await_known(Istiod(configz=[[]]), {route: "1"}, [route], limit=0.01)


def test_a_revision_is_in_force_once_every_proxy_has_the_witness_and_all_that_came_with_it():
    istiod = Istiod(
        syncz=[
            [sync("a.x"), sync("b.x")],
            [sync("a.x"), sync("b.x", sent=(8, 8, 7))],
            [sync("a.x"), sync("b.x", sent=(8, 8, 8))],
        ]
    )
    await_proxies(istiod, {"a.x": envoy("new"), "b.x": envoy(None, "new")}, "new", limit=5, interval=0.001)
    assert istiod.asked == ["/debug/syncz"] * 3


@pytest.mark.parametrize(
    ("syncz", "admin", "says"),
    [
        ([sync()], envoy("old"), "client.default has revision old"),
        ([sync()], envoy(None), "client.default has no revision"),
        ([], envoy("new"), "client.default is not connected to istiod"),
        ([sync(sent=(8, 8, 7))], envoy("new"), "client.default has not been sent RouteConfiguration"),
        ([sync()], envoy("new", stats="cluster_manager.warming_clusters: 2\n"), "settles: warming_clusters 2"),
        ([sync()], envoy("new", stats="listener_manager.total_listeners_draining: 1\n"), "settles: total_listeners_draining 1"),
    ],
    ids=["old", "none", "gone", "half", "warming", "draining"],
)  # fmt: skip
def test_the_proxy_that_is_not_there_yet_is_named(syncz, admin, says):
    with pytest.raises(WaitTimeout, match=says):
        await_proxies(Istiod(syncz=[syncz]), {"client.default": admin}, "new", limit=0.01)


@pytest.mark.parametrize("revision", ["old", "new"])
def test_a_rejection_ends_the_wait_at_once_with_envoys_reason(revision):
    istiod = Istiod(syncz=[[sync(error="no such filter")]])
    with pytest.raises(MeshError, match=r"client.default: take up Listener: no such filter"):
        await_proxies(istiod, {"client.default": envoy(revision)}, "new", limit=60)
