"""A pod that shall leave its node: its successor first, where its Deployment can have it so."""

import pytest
from fake_api import serving

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.draining import NodeDrain
from testbed.backends.istio.leaving import MANAGER, RESTARTED, keeps_serving, let_go
from testbed.host.namespaces import HostNetwork
from testbed.waiting import NotYet

SURGE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
DEFAULT = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/echo-v1"
POD = "/api/v1/namespaces/default/pods/echo-v1-a"


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def api(server):
    made = KubeApi(server.access, HostNetwork().dial, 10)
    yield made
    made.close()


def owned(name, kind, owner, **metadata):
    owners = [{"kind": kind, "name": owner}] if owner else []
    return {"metadata": {"name": name, "namespace": "default", "ownerReferences": owners, **metadata}}


def workload(server, strategy=SURGE, replicas=1, asked=None, made_with=None):
    """A Deployment with its ReplicaSet and pod, each as it was made with some annotation."""
    template = {"metadata": {"annotations": {RESTARTED: asked} if asked else {}}}
    spec = {"replicas": replicas, "strategy": strategy, "template": template}
    server.objects[DEPLOYMENT] = {**owned("echo-v1", "", ""), "spec": spec}
    server.objects["/apis/apps/v1/namespaces/default/replicasets/echo-v1-rs"] = owned(
        "echo-v1-rs", "Deployment", "echo-v1"
    )
    annotations = {RESTARTED: made_with} if made_with else {}
    server.objects[POD] = {
        **owned("echo-v1-a", "ReplicaSet", "echo-v1-rs", annotations=annotations),
        "spec": {"nodeName": "agent"},
        "status": {"phase": "Running"},
    }


def rolled(server):
    return [q["fieldManager"] for m, p, q in server.asked if m == "PATCH" and p == DEPLOYMENT]


def test_a_deployment_of_one_pod_is_rolled_once_for_a_pod(server, api):
    workload(server)
    let_go(api, "default", "echo-v1-a")
    assert (rolled(server), server.evicted) == ([MANAGER], [])
    assert server.objects[DEPLOYMENT]["spec"]["template"]["metadata"]["annotations"][RESTARTED]
    # what a real API keeps of the rest of the Deployment
    workload(server, asked="now")
    let_go(api, "default", "echo-v1-a")
    assert rolled(server) == [MANAGER], "its successor is on its way"
    workload(server, asked="now", made_with="now")
    let_go(api, "default", "echo-v1-a")
    assert rolled(server) == [MANAGER] * 2, "the successor shall leave its node, too"


def test_all_else_is_evicted(server, api):
    workload(server, strategy={"type": "Recreate"})
    let_go(api, "default", "echo-v1-a")
    assert (rolled(server), server.evicted) == ([], [POD])
    let_go(api, "default", "echo-v1-a")
    assert server.evicted == [POD], "it has gone"
    workload(server)
    server.objects.pop("/apis/apps/v1/namespaces/default/replicasets/echo-v1-rs")
    let_go(api, "default", "echo-v1-a")
    assert server.evicted == [POD, POD]


@pytest.mark.parametrize(
    ("strategy", "replicas", "keeps"),
    [
        (SURGE, 1, True),
        (DEFAULT, 1, True),
        (SURGE, 2, False),
        ({"type": "Recreate"}, 1, False),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}, 1, False),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}, 1, False),
    ],
)
def test_who_keeps_serving(strategy, replicas, keeps):
    assert keeps_serving({"replicas": replicas, "strategy": strategy}) is keeps


def test_a_node_is_empty_once_nothing_is_on_it_that_another_may_run(server, api):
    workload(server)
    for name in ("agent", "server"):
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        server.objects[f"/api/v1/nodes/{name}"] = {"metadata": {"name": name}, "spec": {}, "status": ready}
    drain = NodeDrain(api, "agent")
    with pytest.raises(NotYet, match="echo-v1-a are still on it"):
        drain.empty()
    assert rolled(server) == [MANAGER]
    server.objects.pop(POD)
    drain.empty()
    drain.cordon()
    assert server.objects["/api/v1/nodes/agent"]["spec"] == {"unschedulable": True}
    drain.uncordon()
    assert server.objects["/api/v1/nodes/agent"]["spec"] == {"unschedulable": False}
