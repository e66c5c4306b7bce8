"""Istio and the workloads in a cluster: the inventory in, objects out; compared with tests/golden/istio.

Write these anew with: TESTBED_GOLDEN=write pytest tests/unit/istio/test_istio_installing.py
"""

import os

import pytest
import yaml

from testbed.backends.istio.ambient import plain_hbone
from testbed.backends.istio.installing import around, installation, mesh_config, operator
from testbed.backends.istio.manifests import objects
from testbed.host.directories import testbed_home as home
from testbed.model.reading import read_inventory, topology_of
from testbed.pki import LabCa

GOLDEN = home() / "tests" / "golden" / "istio"


LABS = ("k3s-small", "k3s-ha")


def inventory(name, old="", new=""):
    text = (home() / "inventories" / f"{name}.yaml").read_text()
    assert old in text
    return read_inventory(text.replace(old, new, 1), name)


def golden(name, values):
    text = yaml.safe_dump_all(values, sort_keys=False, width=200)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("TESTBED_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def preferred(pod):
    affinity = pod["affinity"]["nodeAffinity"]
    assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"], "it may run elsewhere"
    [found] = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    [expression] = found["preference"]["matchExpressions"]
    assert (found["weight"], expression["key"]) == (100, "kubernetes.io/hostname")
    [node] = expression["values"]
    return node


def lab_objects(name):
    there = inventory(name)
    return objects(there, topology_of(there), "testbed.dev/samples:key", "1-31-0")


@pytest.mark.parametrize("lab", ["k3s-small", "k3s-istio", "k3s-ambient"])
def test_services_and_workloads_become_these_objects(lab):
    golden(lab, lab_objects(lab))


@pytest.mark.parametrize("plain", [False, True], ids=["istio's proxy", "plain Envoy"])
@pytest.mark.parametrize(("lab", "name"), [("k3s-small", "operator"), ("k3s-ambient", "operator-ambient")])
def test_istioctl_is_told_these_settings(lab, name, plain):
    golden(f"{name}{'-plain' if plain else ''}", [operator(inventory(lab), "1.31.0", plain_envoy=plain)])


def test_the_inventorys_settings_of_the_mesh_count_more_than_the_labs():
    own = "mesh:\n  config: {accessLogFile: /dev/stdout, defaultConfig: {concurrency: 2}}\n"
    config = mesh_config(inventory("k3s-small", "mesh:\n", own))
    assert config["accessLogFile"] == "/dev/stdout"
    assert config["defaultConfig"] == {"concurrency": 2, "drainDuration": "3s", "terminationDrainDuration": "3s"}


def test_in_ambient_mode_every_envoy_speaks_hbone_whatever_else_the_inventory_tells_it():
    own = "mesh:\n  config: {defaultConfig: {proxyMetadata: {ISTIO_META_OTHER: x}}}\n"
    metadata = mesh_config(inventory("k3s-ambient", "mesh:\n", own))["defaultConfig"]["proxyMetadata"]
    assert (metadata["ISTIO_META_ENABLE_HBONE"], metadata["ISTIO_META_OTHER"]) == ("true", "x")
    assert metadata["PEER_METADATA_DISCOVERY"] == "false", "plain Envoy lacks the extension"
    assert "proxyMetadata" not in mesh_config(inventory("k3s-small"))["defaultConfig"]


def test_plain_envoy_takes_hbone_by_this_filter():
    golden("plain-hbone", [plain_hbone()])


def test_in_ambient_mode_only_gateways_get_an_envoy_and_machines_keep_theirs():
    made = lab_objects("k3s-ambient")
    injected = {
        m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"]
        for m in made
        if m["kind"] == "Deployment"
    }
    assert injected == {"ingressgateway": "true", "echo-v1": "false", "client-v2": "false"}
    [namespace] = (m for m in made if m["kind"] == "Namespace")
    assert namespace["metadata"]["labels"] == {
        "istio.io/dataplane-mode": "ambient",
        "istio.io/rev": "1-31-0",
        "testbed.dev/lab": "k3s-ambient",
    }
    assert {m["metadata"]["name"] for m in made if m["kind"] == "WorkloadGroup"} == {"echo-v2", "client-v1"}


def test_of_several_servers_another_one_gets_istiod_when_its_own_is_lost():
    pilot = [operator(inventory(lab), "1.31.0", plain_envoy=False)["spec"]["values"]["pilot"] for lab in LABS]
    waits = [{t["key"].partition("/")[2]: t["tolerationSeconds"] for t in p.get("tolerations", [])} for p in pilot]
    assert waits == [{}, {"unreachable": 20, "not-ready": 20}]


def test_a_pod_leaves_a_lost_node_soon_and_tells_the_node_that_it_is_on():
    pods = [m["spec"]["template"]["spec"] for m in lab_objects("k3s-small") if m["kind"] == "Deployment"]
    waits = [{t["key"].partition("/")[2]: t["tolerationSeconds"] for t in p["tolerations"]} for p in pods]
    assert waits == [{"unreachable": 20, "not-ready": 20}] * 2
    told = [c.get("env", []) for p in pods for c in p["containers"]]
    nodes = [e["valueFrom"]["fieldRef"]["fieldPath"] for env in told for e in env if e["name"] == "NODE"]
    assert nodes == ["spec.nodeName"], "of the program; a gateway has none"


def test_istiod_signs_with_the_labs_ca(tmp_path):
    ca = LabCa.create("lab")
    namespace, secret = around(inventory("k3s-small"), ca.as_files())
    assert (namespace["kind"], secret["metadata"]["name"]) == ("Namespace", "cacerts")
    folder = tmp_path / "ca"
    folder.mkdir()
    for name, text in secret["stringData"].items():
        (folder / name).write_text(text)
    assert LabCa.load(folder).roots == ca.roots
    assert set(secret["stringData"]) == {"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"}


def generated(kind, name, labels=(), **rest):
    return {"kind": kind, "metadata": {"name": name, "labels": dict(labels)}, **rest}


def test_objects_go_in_in_the_order_that_they_need_each_other():
    webhook = {"name": "w", "failurePolicy": "Ignore", "rules": []}
    made = [
        generated("MutatingWebhookConfiguration", "m", webhooks=[webhook]),
        generated("Deployment", "istiod-1-31-0"),
        None,
        generated("CustomResourceDefinition", "c"),
        generated("Namespace", "n"),
    ]
    found = installation(made, inventory("k3s-small"), "1.31.0")
    kinds = ["Namespace", "CustomResourceDefinition", "Deployment", "MutatingWebhookConfiguration"]
    assert [m["kind"] for m in found.beside] == kinds
    assert found.webhooks[0]["webhooks"] == [{"name": "w", "rules": []}], "istiod sets how strict they are"


def test_what_names_no_revision_goes_over_at_last_and_istiods_address_with_it():
    labels, selector = {"istio.io/rev": "1-31-0"}, {"app": "istiod", "istio.io/rev": "1-31-0"}
    made = [
        generated("Service", "istiod-1-31-0", labels, spec={"selector": selector}),
        generated("Service", "istiod-revision-tag-default", {**labels, "istio.io/tag": "default"}),
        generated("MutatingWebhookConfiguration", "istio-sidecar-injector-1-31-0", labels, webhooks=[]),
        generated("MutatingWebhookConfiguration", "istio-revision-tag-default", {**labels, "istio.io/tag": "default"}, webhooks=[]),
        generated("ValidatingWebhookConfiguration", "istiod-default-validator", labels, webhooks=[]),
    ]  # fmt: skip
    found = installation(made, inventory("k3s-small"), "1.31.0")
    assert [m["metadata"]["name"] for m in found.beside] == ["istiod-1-31-0", "istio-sidecar-injector-1-31-0"]
    assert "clusterIP" not in found.beside[0]["spec"]
    stable, *others = found.current
    assert (stable["metadata"]["name"], stable["metadata"]["labels"]) == ("istiod", labels)
    assert stable["spec"] == {"selector": selector, "clusterIP": "10.43.0.20"}
    assert [m["metadata"]["name"] for m in others] == [
        "istiod-revision-tag-default",
        "istiod-default-validator",
        "istio-revision-tag-default",
    ]


def test_every_workload_is_in_the_cluster_once_and_where_the_inventory_has_it():
    there = inventory("k3s-istio")
    made = lab_objects("k3s-istio")
    pods = {
        m["metadata"]["name"]: preferred(m["spec"]["template"]["spec"]) for m in made if m["kind"] == "Deployment"
    }
    groups = {m["metadata"]["name"] for m in made if m["kind"] == "WorkloadGroup"}
    assert groups == {"reviews-v3", "ratings-v1", "client-v1"}
    assert {**pods, **{w.name: w.node for w in topology_of(there).workloads if w.name in groups}} == {
        w.name: w.node for w in topology_of(there).workloads
    }
    assert {m["metadata"]["labels"]["testbed.dev/lab"] for m in made} == {"k3s-istio"}


def test_addresses_of_services_are_those_that_nobody_else_is_given():
    addresses = [
        int(s.address) - int(inventory("k3s-istio").cluster.services.network_address)
        for s in topology_of(inventory("k3s-istio")).services
    ]
    assert min(addresses) > 20
    assert max(addresses) < 256
