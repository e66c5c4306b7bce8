"""The scenarios of clusters: they fit the labs that they are for, and say why they don't apply elsewhere."""

import pytest

from testbed.backends.standalone import StandaloneBackend
from testbed.faults.breaking import Breaker
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.reading import read_inventory
from testbed.model.topology import Topology
from testbed.plan.guestfaults import InGuest
from testbed.scenarios import find
from testbed.scenarios.lab import LabUnderTest
from testbed.scenarios.naming import check_names
from testbed.scenarios.running import why_not_applicable

LABS = {
    "cluster-machine-lost": "k3s-small",
    "cluster-istiod-down": "k3s-small",
    "cluster-node-lost": "k3s-istio",
    "cluster-pods-moved": "k3s-small",
    "cluster-server-lost": "k3s-ha",
    "cluster-upgrade": "k3s-small",
}
SHIPPED = {f.scenario.name: f for f in find(["cluster"])}


def lab(name):
    return Lab(
        read_inventory((home() / "inventories" / f"{name}.yaml").read_text(), f"{name}.yaml"), f"{name}.yaml"
    )


class Cluster(StandaloneBackend):
    """Has the lab's topology, and lacks nothing."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def not_applicable(self, feature):
        return None


class Standalone(Cluster):
    not_applicable = StandaloneBackend.not_applicable


class Outdated:
    """Plays a lab whose inventory names newer releases."""

    def pending(self):
        return ("upgrade:server",)

    def perform(self):
        return "server v2"


def under_test(there, backend):
    return LabUnderTest(backend(there.topology), breaker=Breaker(there, Outdated()))


def test_each_has_a_lab():
    assert set(LABS) == set(SHIPPED)
    assert all(f.scenario.breaks_machines for f in SHIPPED.values()), "they have to be asked for"


@pytest.mark.parametrize("name", sorted(LABS))
def test_it_applies_to_its_lab_and_names_what_is_there(name):
    there = lab(LABS[name])
    assert why_not_applicable(SHIPPED[name].scenario, under_test(there, Cluster)) == ""
    check_names(SHIPPED[name], topology=there.topology)


@pytest.mark.parametrize("name", sorted(LABS))
@pytest.mark.parametrize("standalone", ["two-nodes", "bookinfo", "resilience"])
def test_elsewhere_it_says_why_it_does_not_apply(name, standalone):
    reason = why_not_applicable(SHIPPED[name].scenario, under_test(lab(standalone), Standalone))
    assert reason in (
        "workloads run on machines, not in Kubernetes",
        "no control plane runs: proxies read files",
    ) or reason.startswith("the lab has no ")


def test_a_lab_with_all_its_services_still_has_no_cluster():
    there = lab("two-nodes")
    found = SHIPPED["cluster-istiod-down"].scenario.model_copy(update={"needs": []})
    assert why_not_applicable(found, under_test(there, Standalone)) == "no control plane runs: proxies read files"


def test_one_server_is_none_of_three():
    reason = why_not_applicable(SHIPPED["cluster-server-lost"].scenario, under_test(lab("k3s-small"), Cluster))
    assert "server-1" in reason


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("cluster-machine-lost", ["machine"]),
        ("cluster-node-lost", ["agent-1"]),
        ("cluster-pods-moved", ["agent"]),
        ("cluster-server-lost", ["server-1"]),
        ("cluster-istiod-down", ["server"]),
    ],
)
def test_it_breaks_the_machine_that_it_speaks_of(name, nodes):
    [step] = [s for s in SHIPPED[name].scenario.each_step() if s.when.faults]
    actions = Breaker(lab(LABS[name])).actions(step.when.faults[0])
    assert [a.node for a in actions] == nodes
    assert isinstance(actions[0], InGuest) is (name == "cluster-istiod-down")
