"""A cluster of several servers: any of them tells how its API is reached, and the first one begins only one."""

import pytest

from testbed.backends.istio import reaching
from testbed.backends.istio.reaching import access_of
from testbed.errors import LabError
from testbed.guests.connection import Completed
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.workflows import kubernetes
from testbed.workflows.cluster import ClusterSecrets, node_units, wanted_cluster
from testbed.workflows.mesh import require_backend

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Y2E=}}]
users: [{name: default, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}]
contexts: [{name: default, context: {cluster: default, user: default}}]
current-context: default
"""


class Node:
    """Answers each command with the first of ``says`` whose key is in it; is dead without any."""

    def __init__(self, name, says):
        self.name, self.says = name, says

    def run(self, argv, **options):
        if not self.says:
            raise LabError(self.name, "connect", "no route to host")
        return next(
            (Completed(0, text.encode(), b"") for key, text in self.says.items() if key in argv),
            Completed(1, b"", b""),
        )


class Network:
    def __init__(self, there):
        self.there = there

    def dial(self, address, port, timeout):
        self.asked = (address, port)
        if address not in self.there:
            raise OSError("no route to host")
        return self

    def close(self):
        pass


def lab(nodes, there=()):
    made = Lab(read_inventory((home() / "inventories" / "k3s-ha.yaml").read_text(), "k3s-ha.yaml"), "k3s-ha.yaml")
    made.connection = lambda name: Node(name, nodes.get(name, {}))
    made.network = Network(there)
    return made


HAS = {reaching.KUBECONFIG: KUBECONFIG}


def test_the_api_is_reached_at_its_own_address_whichever_server_is_lost():
    for nodes in ({"server-1": HAS}, {"server-3": HAS}, {"server-1": {"other": ""}, "server-2": HAS}):
        access = access_of(lab(nodes))
        assert (access.host, access.port) == ("10.77.0.9", 6443)


def test_without_any_server_the_first_ones_trouble_is_told():
    with pytest.raises(LabError, match="server-1: connect: no route to host"):
        access_of(lab({}))
    with pytest.raises(LabError, match="server-1: read the cluster's kubeconfig: there is none yet"):
        access_of(lab({f"server-{n}": {"other": ""} for n in (1, 2, 3)}))


def test_a_first_server_that_is_made_anew_begins_no_second_cluster():
    new, old = {"server-1": {"other": ""}}, {"server-1": {kubernetes.ETCD: ""}}
    kubernetes._require_no_other_cluster(lab(new), "server-1")
    kubernetes._require_no_other_cluster(lab(old, {"10.77.0.9"}), "server-1")
    with pytest.raises(
        LabError, match=r"begin the cluster: the other servers have one already: its API answers at 10.77.0.9"
    ):
        kubernetes._require_no_other_cluster(lab(new, {"10.77.0.9"}), "server-1")


def test_only_servers_have_what_moves_the_address_and_a_change_of_it_touches_them():
    inventory = lab({}).inventory
    units = {n.name: [u.unit for u in node_units(inventory, n, ClusterSecrets(), {})] for n in inventory.nodes[:5]}
    assert units["server-1"] == units["server-3"] == ["k3s.service", "keepalived.service"]
    assert units["agent-1"] == ["k3s-agent.service"]
    assert "secret" not in repr(ClusterSecrets("secret", "secret"))
    text = (home() / "inventories" / "k3s-ha.yaml").read_text().replace("10.77.0.9", "10.77.0.8")
    before, after = wanted_cluster(inventory), wanted_cluster(read_inventory(text, "k3s-ha.yaml"))
    assert all(before.nodes[n] != after.nodes[n] for n in before.nodes), "agents find the API there, too"


def test_several_servers_are_not_refused(monkeypatch):
    monkeypatch.setattr("testbed.workflows.mesh.require_releases", lambda lab: None)
    require_backend(lab({}))
