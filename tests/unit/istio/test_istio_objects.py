"""What is installed in a cluster, against a stand-in for its API."""

import pytest
from fake_api import serving

from testbed.backends.istio.api import KubeApi
from testbed.backends.istio.objects import LabObjects, node_state, pod_state
from testbed.backends.istio.revisions import parts
from testbed.host.namespaces import HostNetwork
from testbed.waiting import NotYet
from testbed.workflows.upgrading import roll_pods


@pytest.fixture
def cluster(tmp_path):
    with serving(tmp_path) as fake:
        api = KubeApi(fake.access, HostNetwork().dial)
        yield fake, api
        api.close()


def manifest(kind, name, version="v1", **rest):
    labels = {"testbed.dev/lab": "lab"}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        **rest,
    }


def deployment(name, **status):
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}}
    made = manifest("Deployment", name, "apps/v1", spec=spec)
    made["metadata"]["generation"] = 2
    return made | {"status": status}


DONE = {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 1}


def test_what_is_no_longer_wanted_goes(cluster):
    fake, api = cluster
    objects = LabObjects(api, "lab")
    service, group = manifest("Service", "echo"), manifest("WorkloadGroup", "echo-v2", "networking.istio.io/v1")
    objects.apply([service, group, manifest("Service", "old")])
    fake.objects["/api/v1/namespaces/default/services/theirs"] = {
        "metadata": {"name": "theirs", "namespace": "default"}
    }
    objects.prune([service, group])
    assert {p.rpartition("/")[2] for p in fake.objects} == {"echo", "echo-v2", "theirs"}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {**DONE, "observedGeneration": 1},
        {**DONE, "updatedReplicas": 0},
        {**DONE, "availableReplicas": 0},
        {**DONE, "replicas": 2},
    ],
    ids=["nothing known", "not looked at", "the old one", "not ready", "the old one beside it"],
)
def test_a_deployment_is_waited_for_and_its_pods_say_why(cluster, status):
    fake, api = cluster
    made = deployment("echo", **status)
    fake.objects["/apis/apps/v1/namespaces/default/deployments/echo"] = made
    state = {"waiting": {"reason": "ErrImageNeverPull", "message": "no such image"}}
    fake.objects["/api/v1/namespaces/default/pods/echo-1"] = {
        "metadata": {"name": "echo-1", "namespace": "default", "labels": {"app": "echo"}},
        "spec": {"nodeName": "agent-1"},
        "status": {"containerStatuses": [{"name": "program", "state": state}]},
    }
    with pytest.raises(NotYet, match="echo: echo-1 on agent-1 program waits: ErrImageNeverPull no such image"):
        LabObjects(api, "lab").available([made])
    fake.objects["/apis/apps/v1/namespaces/default/deployments/echo"] = deployment("echo", **DONE)
    LabObjects(api, "lab").available([made, manifest("Service", "echo")])


def settings(fake, revision, **labels):
    labels = {"istio.io/rev": revision, "operator.istio.io/component": "Pilot", **labels}
    path = f"/api/v1/namespaces/istio-system/configmaps/istio-{revision}"
    fake.objects[path] = {"metadata": {"name": f"istio-{revision}", "namespace": "istio-system", "labels": labels}}


def test_revisions_are_those_whose_settings_are_there(cluster):
    fake, api = cluster
    assert LabObjects(api, "lab").revisions() == frozenset()
    settings(fake, "1-30-4")
    settings(fake, "1-31-0")
    settings(fake, "somebodys", **{"operator.istio.io/component": "theirs"})
    assert LabObjects(api, "lab").revisions() == {"1-30-4", "1-31-0"}


def test_a_revision_is_removed_whole_and_nothing_else(cluster):
    fake, api = cluster
    settings(fake, "1-30-4")
    settings(fake, "1-31-0")
    objects = LabObjects(api, "lab")
    for group in parts("1-30-4"):
        objects.remove(group)
    assert objects.revisions() == {"1-31-0"}
    assert len([w for w in fake.writes() if w[0] == "DELETE"]) == sum(map(len, parts("1-30-4"))), (
        "absent is as good"
    )


def test_webhooks_are_waited_for_until_istiod_has_written_its_certificate_into_them(cluster):
    fake, api = cluster
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/istiod-default-validator"
    made = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "istiod-default-validator"},
    }
    fake.objects[path] = {**made, "webhooks": [{"name": "a", "clientConfig": {}}]}
    with pytest.raises(NotYet, match="istiod-default-validator has no certificate of istiod"):
        LabObjects(api, "lab").vouched([made])
    fake.objects[path] = {**made, "webhooks": [{"name": "a", "clientConfig": {"caBundle": "LS0t"}}]}
    LabObjects(api, "lab").vouched([made, manifest("Service", "echo")])


def test_what_serves_is_rolled_one_after_the_other_and_what_does_not_at_once(cluster):
    fake, api = cluster
    for name in ("a", "c"):
        fake.objects[f"/apis/apps/v1/namespaces/default/deployments/{name}"] = deployment(name, **DONE)
    log = []
    roll_pods(
        LabObjects(api, "lab"),
        [deployment(n) for n in "abcd"],
        lambda m: log.append((m["metadata"]["name"], len(fake.writes()))),
    )
    assert [name for _, name in fake.writes()] == ["b", "d", "a", "c"]
    assert log == [("b", 2), ("d", 2), ("a", 3), ("c", 4)], "each is waited for before the next is touched"


def test_nothing_is_waited_for_in_turn_where_nothing_serves_yet(cluster):
    fake, api = cluster
    log = []
    roll_pods(LabObjects(api, "lab"), [deployment(n) for n in "ab"], log.append)
    assert ([name for _, name in fake.writes()], log) == (["a", "b"], [])


def test_parts_are_noted_one_beside_the_other(cluster):
    _, api = cluster
    objects = LabObjects(api, "lab")
    assert objects.digests() == {}
    objects.note("control-plane", "a")
    objects.note("pods", "b")
    objects.note("control-plane", "c")
    assert objects.digests() == {"control-plane": "c", "pods": "b"}


def test_a_kind_that_is_defined_meanwhile_is_found(cluster):
    fake, api = cluster
    objects = LabObjects(api, "lab")
    fake.unknown.add("WorkloadGroup")
    with pytest.raises(NotYet, match="no WorkloadGroup"):
        objects.known("networking.istio.io/v1", "WorkloadGroup")
    fake.unknown.clear()
    objects.known("networking.istio.io/v1", "WorkloadGroup")


def test_a_token_is_asked_for_one_audience_and_time(cluster):
    fake, api = cluster
    assert LabObjects(api, "lab").token("default", "echo", "istio-ca", 60) == "token-1"
    assert fake.tokens == [{"audiences": ["istio-ca"], "expirationSeconds": 60}]


def test_a_node_is_ready_when_its_condition_says_so(cluster):
    fake, api = cluster
    assert "no such node" in node_state(api, "agent").seen
    node = {
        "metadata": {"name": "agent"},
        "status": {"conditions": [{"type": "Ready", "status": "False", "message": "cni"}]},
    }
    fake.objects["/api/v1/nodes/agent"] = node
    assert (node_state(api, "agent").ready, node_state(api, "agent").seen) == (False, "Ready is False: cni")
    node["status"]["conditions"][0]["status"] = "True"
    assert node_state(api, "agent").ready


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes"}]}, "PodScheduled: 0/2 nodes"),
        ({"initContainerStatuses": [{"name": "istio-init", "state": {"terminated": {"exitCode": 1}}}]}, "istio-init ended with status 1"),
        ({"phase": "Running", "containerStatuses": [{"name": "p", "state": {"running": {}}}]}, "Running"),
        ({}, "Unknown"),
    ],
)  # fmt: skip
def test_why_a_pod_is_not_ready(status, says):
    assert pod_state({"status": status}) == says
