"""What an inventory may say of a cluster, and how what can't be is refused before anything is touched."""

import pytest

from testbed.artifacts import needed, on_nodes, read_catalogue
from testbed.cli import run
from testbed.errors import BadInput
from testbed.host.directories import testbed_home as home
from testbed.images import image_key, load_recipe
from testbed.lab.disks import Disks
from testbed.model.clusters import image_packages, router_address
from testbed.model.reading import read_inventory, require_scale, topology_of
from testbed.workflows.loading import load_lab

CLUSTER = """\
id: cluster
mesh: {backend: istio}
nodes:
  - {name: one, cluster: server, memory: 2GiB}
  - {name: two, cluster: agent, memory: 1GiB}
  - {name: three}
services:
  - {name: echo, ports: [{name: http, port: 9080}]}
workloads:
  - {service: echo, version: v1, node: two}
  - {service: echo, version: v2, node: three}
gateways:
  - {name: in, node: two}
"""


def problems(text):
    try:
        read_inventory(text, "lab.yaml")
    except BadInput as e:
        return [str(p) for p in e.problems]
    return []


def test_nodes_are_servers_agents_or_outside_the_cluster():
    inventory = read_inventory(CLUSTER, "lab.yaml")
    assert [n.name for n in inventory.servers()] == ["one"]
    assert [n.name for n in inventory.agents()] == ["two"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cluster: server, memory: 2GiB", "memory: 2GiB", r"lab.yaml:3:1: nodes: the istio backend needs a node"),
        ("{backend: istio}", "{}", r"lab.yaml:4:\d+: nodes[0].cluster: only the istio backend has a cluster"),
        ("{backend: istio}", "{mode: ambient}", r"mesh.mode: the standalone backend has no ambient mode"),
        ("{backend: istio}", "{version: 1.31.0}", r"mesh.version: the standalone backend has no Istio"),
        ("cluster: agent, memory: 1GiB", "cluster: server, memory: 2GiB", r"nodes: 2 servers outlive no more"),
        ("cluster: agent, memory: 1GiB", "cluster: server, memory: 2GiB", r"cluster: 2 servers need an address"),
        ("memory: 2GiB", "memory: 512MiB", r"lab.yaml:4:\d+: nodes[0].memory: 512 MiB are too little for a cluster's server"),
        ("memory: 1GiB", "memory: 512MiB", r"nodes[1].memory: 512 MiB are too little for a cluster's agent"),
        ("node: two}\n  - {service: echo, version: v2", "node: [two, three]}\n  - {service: echo, version: v2", r"workloads[0].node: its replicas would be pods on some"),
        ("- {name: in, node: two}", "- {name: in, node: three}", r"gateways[0].node: with Istio a gateway runs in the cluster"),
        ("id: cluster\n", "id: cluster\ncluster: {apiAddress: 10.77.0.9}\n", r"cluster.apiAddress: one server needs no address"),
        ("id: cluster\n", "id: cluster\ncluster: {apiAddress: 10.99.0.9}\n", r"cluster.apiAddress: 10.99.0.9 is no address of the management"),
        ("id: cluster\n", "id: cluster\ncluster: {apiAddress: 10.77.0.10}\n", r"cluster.apiAddress: 10.77.0.10 is node one's"),
        ("id: cluster\n", "id: cluster\ncluster: {apiAddress: 10.77.0.1}\n", r"cluster.apiAddress: 10.77.0.1 is the host's own"),
        ("id: cluster\n", "id: cluster\ncluster: {pods: 10.43.0.0/16}\n", r"cluster.services: 10.43.0.0/16 overlaps the cluster's pods"),
        ("id: cluster\n", "id: cluster\ncluster: {services: 10.78.0.0/24}\n", r"cluster.services: 10.78.0.0/24 overlaps the mesh network"),
        ("id: cluster\n", "id: cluster\ncluster: {pods: 10.99.0.0/24}\n", r"cluster.pods: 10.99.0.0/24 has no /24 for each of 2 nodes"),
        ("id: cluster\n", "id: cluster\ncluster: {version: 1.35.6}\n", r"cluster.version"),
        ("id: cluster\n", "id: cluster\ncluster: {components: [longhorn]}\n", r"cluster.components"),
        ("id: cluster\n", "id: cluster\ncluster: {registries: {docker.io: {endpoints: [here]}}}\n", r"cluster.registries"),
    ],
)  # fmt: skip
def test_what_a_cluster_can_not_be_is_located(old, new, says):
    assert old in CLUSTER
    found = problems(CLUSTER.replace(old, new, 1))
    place, _, text = says.partition(": ") if says.startswith("lab") else ("", "", says)
    assert any(text in p for p in found), found
    assert not place or any(p.startswith(place.split(r"\d")[0]) for p in found), found


def three_servers(address="10.77.0.9"):
    text = CLUSTER.replace("id: cluster\n", f"id: cluster\ncluster: {{apiAddress: {address}}}\n")
    for name in ("two", "three"):
        text = text.replace(f"{{name: {name}", f"{{name: {name}, cluster: server, memory: 2GiB, disk: 5GiB", 1)
    return text.replace(", cluster: agent, memory: 1GiB", "")


def test_three_servers_with_an_address_are_a_cluster():
    assert problems(three_servers()) == []


def test_the_address_that_moves_has_a_free_place_in_the_mesh_network_too():
    inventory = read_inventory(three_servers(), "lab.yaml")
    assert str(router_address(inventory)) == "10.78.0.9"
    lowest = min(w.address for w in topology_of(inventory).workloads)
    below = int(lowest) - 1 - int(inventory.networks.mesh.network_address)
    assert problems(three_servers(f"10.77.0.{below}")) == []
    [found] = problems(three_servers(f"10.77.0.{below + 1}"))
    assert f"cluster.apiAddress: {lowest}, where machines outside the cluster reach it, is no free address" in found
    require_scale(inventory, "echo-v1", 50, "lab.yaml")
    near = read_inventory(three_servers(f"10.77.0.{below}"), "lab.yaml")
    with pytest.raises(BadInput, match="has no room for 50 instances"):
        require_scale(near, "echo-v1", 50, "lab.yaml")


REGISTRY = "cluster: {registries: {docker.io: {endpoints: ['https://one.lab:5000'], %s}}}\n"


@pytest.mark.parametrize(
    ("access", "says"),
    [
        ("certificate: node.pem", r"docker.io: a certificate and its key belong together"),
        ("username: lab", r"docker.io: a username and its password belong together"),
        ("password: hidden", r"password: expected where the secret is: {file: PATH} or {env: NAME}"),
        ("password: {value: hidden}", r"password: expected where the secret is: {file: PATH} or {env: NAME}"),
        ("password: {env: 'hidden!'}", r"password: expected where the secret is: {file: PATH} or {env: NAME}"),
        ("key: {env: KEY, file: hidden}", r"key: expected where the secret is: {file: PATH} or {env: NAME}"),
    ],
)
def test_access_to_a_registry_that_can_not_be_meant_is_located_and_not_shown(access, says):
    found = problems(REGISTRY % access + CLUSTER)
    assert len(found) == 1 and found[0].endswith(says), found
    assert found[0].startswith("lab.yaml:1:") and "hidden" not in found[0]


def test_an_endpoint_has_no_credentials_in_it_and_is_shown_none_in_the_clear():
    text = REGISTRY % "ca: ca.pem" + CLUSTER
    assert problems(text) == []
    assert problems(text.replace("https://", "http://"))[0].endswith(
        "one.lab:5000 is asked without TLS, and would be shown credentials"
    )
    [found] = problems(text.replace("https://", "https://user:hidden@"))
    assert found.endswith("endpoints[0]: credentials in an address") and "hidden" not in found
    twice = text.replace("docker.io:", "quay.io: {endpoints: ['https://one.lab:5000']}, docker.io:")
    assert problems(twice)[0].endswith("one.lab:5000 has other credentials as an endpoint of quay.io")


def test_what_moves_the_address_is_in_images_that_are_made_here_of_labs_with_several_servers():
    text = (home() / "inventories" / "k3s-ha.yaml").read_text()
    several, one = read_inventory(text, "k3s-ha.yaml"), read_inventory(CLUSTER, "lab.yaml")
    assert (image_packages(several), image_packages(one)) == (("curl", "keepalived"), ())
    recipe = Disks.of(several).recipe.recipe.packages
    assert {"curl", "keepalived", "openssh-server"} <= set(recipe) and recipe == sorted(recipe)
    assert "keepalived" not in Disks.of(one).recipe.recipe.packages
    plain = load_recipe(home() / "images" / "debian-12")
    assert Disks.of(one).node_image.key == image_key(plain)
    assert Disks.of(several).node_image.key != image_key(plain)
    [found] = problems(text.replace("cluster:\n", "image: {url: https://example.org/disk}\ncluster:\n", 1))
    assert "image: several servers need keepalived" in found


def test_a_version_that_is_not_declared_is_located_with_those_that_are(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text(CLUSTER.replace("{backend: istio}", "{backend: istio, version: 1.2.3}"))
    with pytest.raises(BadInput, match=r"lab.yaml:2:\d+: mesh.version: istio 1.2.3 is not declared") as caught:
        load_lab(str(file))
    assert "1.31.0" in caught.value.next_step


def test_another_patch_release_of_a_version_that_is_declared_may_be_named(tmp_path):
    file = tmp_path / "lab.yaml"
    versions = "{backend: istio, version: 1.31.7}\ncluster: {version: v1.35.9+k3s2}"
    file.write_text(CLUSTER.replace("{backend: istio}", versions))
    assert {"istio/1.31.7/pilot.tar", "k3s/v1.35.9+k3s2/k3s"} <= {
        a.path for a in needed(load_lab(str(file)).inventory)
    }
    file.write_text(file.read_text().replace("v1.35.9", "v1.3.9"))
    with pytest.raises(BadInput, match=r"cluster.version: k3s v1.3.9\+k3s2 is not declared"):
        load_lab(str(file))


def test_a_lab_needs_the_releases_that_it_names_or_the_defaults():
    named = CLUSTER.replace("{backend: istio}", "{backend: istio, version: 1.30.4, mode: ambient}")
    paths = {a.path for a in needed(read_inventory(named, "lab.yaml"))}
    assert "istio/1.30.4/ztunnel.tar" in paths
    assert f"k3s/{read_catalogue().default('k3s')}/k3s" in paths
    standalone = (home() / "inventories" / "two-nodes.yaml").read_text()
    assert needed(read_inventory(standalone, "two-nodes.yaml")) == ()


def test_nodes_see_all_but_what_runs_on_the_lab_host():
    places = on_nodes(needed(read_inventory(CLUSTER, "lab.yaml")))
    assert sorted(places) == [
        "istio/istio-sidecar.deb",
        "istio/pilot.tar",
        "istio/proxyv2.tar",
        "k3s/k3s",
    ]


def test_up_without_the_releases_ends_in_one_line_and_touches_nothing(tmp_path, monkeypatch, capsys):
    for name in ("CACHE", "STATE", "RUNTIME"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}", str(folder))
    assert run(["up", "-i", "k3s-small"]) == 4
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: artifacts: find them in the cache: k3s/")
    assert said[1].startswith("next: run: testbed artifacts pull -i k3s-small")
    assert len(said) == 2
    assert not list((tmp_path / "state").rglob("*"))
