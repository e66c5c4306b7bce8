"""Pods away from home: which can go back, and that each goes once the one before is there."""

from ipaddress import IPv4Address

import pytest
from fake_api import serving

from testbed.backends.istio import homes
from testbed.backends.istio.homes import BoundPod, Homes, to_send_home
from testbed.backends.istio.leaving import let_go
from testbed.backends.istio.nodes import ClusterNode, cluster_nodes
from testbed.backends.istio.places import WORKLOAD_LABEL
from testbed.errors import WaitTimeout
from testbed.model.topology import MeshWorkload
from testbed.waiting import NotYet

WORKLOADS = tuple(
    MeshWorkload(name, "default", "default", {}, IPv4Address("10.78.0.254"), "agent")
    for name in ("echo-v1", "gate")
)


def bound(workload, node, home="agent"):
    return BoundPod(workload, home, f"{workload}-abc", "default", node)


@pytest.mark.parametrize(
    ("node", "goes"),
    [
        (ClusterNode("agent", ready=True), True),
        (ClusterNode("agent", ready=False), False),
        (ClusterNode("agent", ready=True, cordoned=True), False),
        (ClusterNode("agent", ready=True, tainted=True), False),
        (ClusterNode("other", ready=True), False),
    ],
    ids=["well", "not ready", "cordoned", "tainted", "gone"],
)
def test_a_pod_goes_home_when_its_node_takes_pods(node, goes):
    assert to_send_home([bound("echo-v1", "server")], [node]) == ((bound("echo-v1", "server"),) if goes else ())


def test_those_at_home_stay_and_the_others_go_by_name():
    pods = [bound("b", "server"), bound("a", "server"), bound("c", "agent"), bound("d", "agent", home="lost")]
    assert [p.workload for p in to_send_home(pods, [ClusterNode("agent", ready=True)])] == ["a", "b"]


# Against a stand-in for the API


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as api:
        node(api, "server")
        node(api, "agent")
        yield api


def node(api, name, ready=True, **spec):
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}]}
    api.objects[f"/api/v1/nodes/{name}"] = {"metadata": {"name": name}, "spec": spec, "status": status}


def pod(api, workload, where, number=1, ready=True, phase="Running", **metadata):
    name = f"{workload}-{number}"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    api.objects[f"/api/v1/namespaces/default/pods/{name}"] = {
        "metadata": {"name": name, "namespace": "default", "labels": {WORKLOAD_LABEL: workload}, **metadata},
        "spec": {"nodeName": where} if where else {},
        "status": {"phase": phase, "conditions": conditions},
    }


@pytest.fixture
def there(api):
    return Homes(api, WORKLOADS)


def test_pods_are_evicted_one_after_the_other_once_the_one_before_is_available_at_home(server, there):
    pod(server, "echo-v1", "server")
    pod(server, "gate", "server")

    def successor(path):
        workload = path.rpartition("/")[2].rpartition("-")[0]
        if workload == "gate":
            assert there_is_home(server, "echo-v1")
        pod(server, workload, "agent", number=2)

    server.on_evicted = successor
    assert there.send() == ("echo-v1", "gate")
    assert [p.rpartition("/")[2] for p in server.evicted] == ["echo-v1-1", "gate-1"]
    assert there.send() == (), "all are at home"


def there_is_home(server, workload):
    found = [o for p, o in server.objects.items() if f"/pods/{workload}-" in p]
    return [o["spec"]["nodeName"] for o in found] == ["agent"]


@pytest.mark.parametrize(
    ("where", "ready", "seen"),
    [
        ("server", True, "echo-v1-2 is on server"),
        ("agent", False, "echo-v1-2 is on agent, not available"),
        ("", False, "its pod has no node"),
    ],
)
def test_a_pod_that_does_not_get_home_is_named_with_what_it_does(server, there, monkeypatch, where, ready, seen):
    monkeypatch.setattr(homes, "HOME_LIMIT", 0.01)
    pod(server, "echo-v1", "server")
    server.on_evicted = lambda path: pod(server, "echo-v1", where, number=2, ready=ready)
    with pytest.raises(WaitTimeout, match=rf"echo-v1 is available on agent again: .*{seen}"):
        there.send()


def test_a_pod_that_is_gone_by_then_is_waited_for_all_the_same(server, api, there):
    pod(server, "echo-v1", "server")
    [sent] = there.to_send()
    server.objects.pop("/api/v1/namespaces/default/pods/echo-v1-1")
    let_go(api, sent.namespace, sent.name)
    assert server.evicted == []


def test_a_pod_that_leaves_is_nowhere_and_its_successor_counts(server, there):
    pod(server, "echo-v1", "agent", deletionTimestamp="2026-11-30T00:00:00Z")
    pod(server, "echo-v1", "server", number=2)
    pod(server, "gate", "agent", phase="Failed")
    pod(server, "stranger", "agent")
    assert [(p.workload, p.name, p.node, p.is_away) for p in there.pods()] == [
        ("echo-v1", "echo-v1-2", "server", True)
    ]


@pytest.mark.parametrize(
    ("spec", "takes", "lost"),
    [
        ({}, True, False),
        ({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}, False, True),
        ({"taints": [{"key": "mine", "effect": "PreferNoSchedule"}]}, True, False),
        ({"unschedulable": True, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}, False, False),
    ],
    ids=["well", "lost", "a wish", "cordoned"],
)  # fmt: skip
def test_a_node_takes_pods_when_neither_cordoned_nor_tainted_and_is_waited_for_while_lost(
    server, api, there, spec, takes, lost
):
    node(server, "agent", **spec)
    [agent] = [n for n in cluster_nodes(api) if n.name == "agent"]
    assert agent.takes_pods is takes
    if lost:
        with pytest.raises(NotYet, match="agent is tainted"):
            there.require_pods_taken(["agent"])
    else:
        there.require_pods_taken(["agent"])


def test_a_node_that_is_not_ready_is_waited_for(server, there):
    node(server, "agent", ready=False)
    there.require_pods_taken(["server"])
    with pytest.raises(NotYet, match="agent is not Ready"):
        there.require_pods_taken(["agent"])
