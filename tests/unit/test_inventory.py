"""What an inventory means, and how a bad one is refused."""

from pathlib import Path

import pytest

from testbed.documents import parse
from testbed.errors import BadInput
from testbed.host.directories import testbed_home as home
from testbed.model.reading import check_fits, read_inventory, topology_of
from testbed.model.schema import inventory_schema
from testbed.model.topology import ProxyKind

SHIPPED = sorted((home() / "inventories").glob("*.yaml"))

SMALL = """\
id: small
nodes:
  - {name: left}
  - {name: right}
services:
  - {name: echo, ports: [{name: http, port: 9080}]}
workloads:
  - {service: echo, version: v1, node: left}
  - {service: echo, version: v2, node: [left, right], replicas: 3}
gateways:
  - {name: in, node: left}
"""


def refused(text):
    with pytest.raises(BadInput) as caught:
        read_inventory(text, "lab.yaml")
    return caught.value.problems


def test_the_schema_in_the_repository_is_current():
    assert (home() / "inventories" / "schema.json").read_text() == inventory_schema()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_inventories_are_valid(path: Path):
    inventory = read_inventory(path.read_text(), path.name)
    assert inventory.id == path.stem
    topology = topology_of(inventory)
    addresses = [w.address for w in topology.workloads] + [inventory.mesh_address(n.name) for n in inventory.nodes]
    assert len(set(addresses)) == len(addresses)
    assert all(a in inventory.networks.mesh for a in addresses)


def test_in_the_default_lab_no_two_versions_of_a_service_share_a_machine_and_it_fits_8_gib():
    inventory = read_inventory((home() / "inventories" / "bookinfo.yaml").read_text(), "bookinfo.yaml")
    placed = [(w.node, w.service) for w in topology_of(inventory).workloads if w.service]
    assert len(set(placed)) == len(placed)
    assert len(inventory.nodes) == 6
    assert sum(n.memory for n in inventory.nodes) <= 5 * 2**30


def test_replicas_spread_over_nodes_and_the_first_keeps_its_name():
    topology = topology_of(read_inventory(SMALL, "lab.yaml"))
    assert [(w.name, w.node) for w in topology.workloads if w.version == "v2"] == [
        ("echo-v2", "left"),
        ("echo-v2-2", "right"),
        ("echo-v2-3", "left"),
    ]


def test_a_gateway_is_a_workload_of_its_own():
    gateway = topology_of(read_inventory(SMALL, "lab.yaml")).workload("in")
    assert gateway.kind is ProxyKind.GATEWAY
    assert gateway.spiffe_id("cluster.local") == "spiffe://cluster.local/ns/istio-system/sa/in"


def test_addresses_do_not_change_when_a_numbered_node_goes():
    text = SMALL.replace("{name: left}", "{name: left, number: 20}").replace(
        "{name: right}", "{name: right, number: 30}"
    )
    before = read_inventory(text, "lab.yaml").management_address("right")
    after = read_inventory(text.replace("  - {name: left, number: 20}\n", "").replace("left", "right"), "lab.yaml")
    assert str(before) == str(after.management_address("right")) == "10.77.0.30"


@pytest.mark.parametrize(
    ("change", "line", "field", "message"),
    [
        (("node: left}\n  - {service: echo, version: v2", "node: middle}\n  - {service: echo, version: v2"), 8, "workloads[0].node", "unknown node 'middle'"),
        (("{name: right}", "{name: left}"), 4, "nodes[1].name", "declared twice"),
        (("{name: right}", "{name: right, cpus: 2}"), 4, "nodes[1].cpus", "unknown field 'cpus'"),
        (("{name: right}", "{name: right, memory: lots}"), 4, "nodes[1].memory", "512MiB"),
        (("{name: right}", "{name: right, number: 12}\n  - {name: more, number: 12}"), 5, "nodes[2].number", "number 12"),
        (("id: small", "id: small\nnetworks: {management: 10.9.0.0/16, mesh: 10.9.1.0/24}"), 2, "networks.mesh", "overlaps"),
        (("id: small", "id: small\nnetworks: {mesh: 10.9.0.0/33}"), 2, "networks.mesh", "IPv4 network"),
        (("id: small", "id: small\nhosts: [{uri: 'qemu+ssh://far/system'}]"), 2, "hosts[0].uri", "not supported yet"),
        (("service: echo, version: v1", "service: eco, version: v1"), 8, "workloads[0].service", "unknown service 'eco'"),
        (("id: small", "id: Not A Label"), 1, "id", "pattern"),
        (("version: v2, node: [left, right], replicas: 3", "version: v1, node: right"), 9, "workloads[1].version", "echo-v1"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)  # fmt: skip
def test_a_bad_inventory_is_one_located_line(change, line, field, message):
    problems = refused(SMALL.replace(*change))
    hits = [p for p in problems if p.location.field == field and message in p.message]
    assert hits, [str(p) for p in problems]
    assert hits[0].location.line == line
    assert hits[0].location.file == "lab.yaml"


def test_two_documents_are_refused():
    assert "one YAML document" in refused(SMALL + "---\nid: other\n")[0].message


def test_more_memory_than_the_host_has_is_refused_where_the_nodes_stand():
    inventory = read_inventory(SMALL, "lab.yaml")
    [document] = parse(SMALL, "lab.yaml")
    with pytest.raises(BadInput, match=r"lab.yaml:2.*1.2 GiB"):
        check_fits(inventory, document, 2**30, "lab.yaml")
    check_fits(inventory, document, 4 * 2**30, "lab.yaml")
