"""Another k3s and another Istio for a lab on machines that is up, under traffic; the mirror needs two of either.

In file order: the lab is built with the older ones.
"""

import json

import pytest
from mirrored import MirroredLab, mirrored_versions

pytestmark = pytest.mark.full

LAB = "k3s-small"
UP_LIMIT = 1800
PRODUCTS = ("k3s", "istio")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = MirroredLab(LAB, tmp_path_factory.mktemp("inventory"))
    found = {product: mirrored_versions(product) for product in PRODUCTS}
    if few := [product for product, versions in found.items() if len(versions) < 2]:
        pytest.skip(f"the mirror has one version of {' and '.join(few)} alone")
    made.name_versions({product: versions[-2] for product, versions in found.items()})
    try:
        made.build(UP_LIMIT)
        yield made
    finally:
        made.run("down", limit=120)


def newest(lab, *products):
    lab.name_versions({product: mirrored_versions(product)[-1] for product in products})
    lab.pull()


def nodes(lab):
    said = lab.run("ssh", "server", "--", "k3s", "kubectl", "get", "nodes", "-o", "json")
    return {n["metadata"]["name"]: n for n in json.loads(said)["items"]}


def test_with_nothing_newer_there_is_no_upgrade(lab):
    assert lab.report["verdict"] == "PASS"
    assert lab.verdicts("cluster-upgrade") == {"cluster-upgrade": "NOT_APPLICABLE"}


@pytest.mark.parametrize("product", PRODUCTS)
def test_an_upgrade_loses_no_request(lab, product):
    newest(lab, product)
    assert lab.verdicts("cluster-upgrade", limit=3600) == {"cluster-upgrade": "PASS"}
    lab.tell(json.dumps({name: n["status"]["nodeInfo"]["kubeletVersion"] for name, n in nodes(lab).items()}))
    version = mirrored_versions("k3s")[-1]
    assert {n["status"]["nodeInfo"]["kubeletVersion"] for n in nodes(lab).values()} == {version}
    assert not any(n["spec"].get("unschedulable") for n in nodes(lab).values())


def test_the_upgraded_lab_is_as_its_inventory_says(lab):
    assert json.loads(lab.run("up", "--json", limit=600))["steps"] == {}
    assert json.loads(lab.run("status", "--json"))["healthy"]
    assert lab.verdicts("echo-split") == {"echo-split": "PASS"}


def test_one_control_plane_is_left(lab):
    kubectl = ("ssh", "server", "--", "k3s", "kubectl", "get", "deployments", "-n", "istio-system", "-o", "json")
    found = [d for d in json.loads(lab.run(*kubectl))["items"] if d["metadata"]["labels"].get("app") == "istiod"]
    assert [d["metadata"]["labels"]["istio.io/rev"] for d in found] == [
        mirrored_versions("istio")[-1].replace(".", "-")
    ]


def test_an_upgraded_lab_is_saved_and_restored(lab):
    lab.run("snapshot", "save", "upgraded", limit=300)
    lab.run("snapshot", "restore", "upgraded", limit=600)
    assert lab.verdicts("echo-split") == {"echo-split": "PASS"}
    lab.run("snapshot", "delete", "upgraded")


def test_there_is_no_way_back(lab):
    lab.name_versions({"k3s": mirrored_versions("k3s")[-2]})
    lab.pull()
    lab.run("up", status=2)
