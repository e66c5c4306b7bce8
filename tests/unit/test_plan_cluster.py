"""A cluster in a plan: servers in turn, agents at once, the control plane after them, workloads after that."""

from dataclasses import replace

import pytest

from testbed.host.directories import testbed_home as home
from testbed.model.reading import read_inventory
from testbed.plan import ObservedLab, ObservedMachine, WantedCluster, WantedLab, WantedMachine, plan_up
from testbed.plan.steps import Stage
from testbed.workflows.cluster import wanted_cluster

NODES = ("one", "two", "three", "agent-1", "agent-2", "machine")
CLUSTER = WantedCluster(NODES[:3], NODES[3:5], {n: f"c-{n}" for n in NODES[:5]}, "istio", "pods", "1-31-0")
WANTED = WantedLab("lab", False, {}, {n: WantedMachine("m", "w") for n in NODES}, {}, CLUSTER)
THERE = ObservedLab(
    image=True,
    shared=True,
    machines={n: ObservedMachine("m", True, True, "w", CLUSTER.nodes.get(n)) for n in NODES},
    control_plane="istio",
    pods="pods",
    revisions=frozenset({"1-31-0"}),
    mesh_in_force=True,
)


def steps(observed, wanted=WANTED):
    return {s.name: s for s in plan_up(wanted, observed)}


def machine(node, **changes):
    return replace(THERE, machines={**THERE.machines, node: replace(THERE.machines[node], **changes)})


def test_nothing_to_do_is_an_empty_plan():
    assert steps(THERE) == {}


def test_servers_join_in_turn_and_then_agents_all_at_once():
    found = steps(ObservedLab())
    assert found["cluster:one"].needs == {"boot:one"}
    assert found["cluster:two"].needs == {"boot:two", "cluster:one"}
    assert found["cluster:three"].needs == {"boot:three", "cluster:two"}
    for agent in ("agent-1", "agent-2"):
        assert found[f"cluster:{agent}"].needs == {f"boot:{agent}", *(f"cluster:{n}" for n in NODES[:3])}
    assert "cluster:machine" not in found


def test_the_mesh_comes_after_its_control_plane_and_that_after_the_cluster():
    found = steps(ObservedLab())
    assert found["control-plane"].needs == {f"cluster:{n}" for n in NODES[:3]}
    assert "control-plane" in found["workloads"].needs
    assert found["pods"].needs == {"control-plane", *(f"cluster:{n}" for n in NODES[:5])}
    assert {"pods", "workloads"} <= found["mesh"].needs
    assert {"control-plane", "workloads"} <= found["mesh"].needs
    assert found["mesh"].does.startswith("apply the resources to the cluster")
    assert {s.stage for s in found.values() if s.name.startswith(("cluster:", "control"))} == {Stage.CLUSTER}


@pytest.mark.parametrize(
    ("observed", "does"),
    [
        (machine("agent-1", cluster="other"), ["cluster:agent-1", "pods", "mesh"]),
        (machine("agent-1", cluster=None), ["cluster:agent-1", "pods", "mesh"]),
        (machine("two", cluster="other"), ["cluster:two", "pods", "mesh"]),
        (replace(THERE, control_plane="other"), ["control-plane", "mesh"]),
        (replace(THERE, pods="other"), ["pods", "mesh"]),
        (replace(THERE, mesh_in_force=False), ["mesh"]),
        (replace(THERE, away={"echo-v1": "agent-1"}), ["home", "mesh"]),
        (replace(THERE, away={"echo-v1": "agent-1"}, pods="other"), ["pods", "mesh"]),
        (replace(THERE, away={"echo-v1": "agent-1"}, control_plane="other"), ["control-plane", "home", "mesh"]),
    ],
    ids=[
        *("agent's files", "agent gone", "server's files", "Istio's version", "workloads", "resources"),
        *("a pod away", "which the new one is not", "and Istio's version"),
    ],
)
def test_only_what_differs_is_done(observed, does):
    assert list(steps(observed)) == does


def upgraded(observed=THERE, revisions=("1-30-4",)):
    """What is there when the inventory has another version of Istio than the lab."""
    machines = {**observed.machines, "machine": replace(observed.machines["machine"], workloads="older")}
    older = {"control_plane": "older", "pods": "older", "revisions": frozenset(revisions), "mesh_in_force": False}
    return replace(observed, machines=machines, **older)


def test_another_version_of_istio_is_installed_beside_and_the_one_before_is_removed_at_last():
    found = steps(upgraded())
    assert list(found) == ["control-plane", "pods", "workloads", "mesh", "retire-control-plane"]
    assert found["control-plane"].does == (
        "install Istio's control plane as 1-31-0 beside 1-30-4 and wait until it is available"
    )
    assert found["pods"].needs == {"control-plane"}
    assert found["workloads"].needs == {"control-plane", "pods"}
    assert found["retire-control-plane"].needs == {"control-plane", "pods", "workloads", "mesh"}


def test_an_upgrade_that_was_interrupted_is_ended():
    both = frozenset({"1-30-4", "1-31-0"})
    found = steps(replace(THERE, revisions=both))
    assert {n: s.needs for n, s in found.items()} == {"retire-control-plane": frozenset()}
    assert list(steps(replace(THERE, revisions=both, pods="older"))) == ["pods", "mesh", "retire-control-plane"]


def test_a_changed_setting_or_a_cluster_that_is_begun_anew_has_no_revision_to_remove():
    assert "retire-control-plane" not in steps(replace(THERE, control_plane="other"))
    old = replace(upgraded(), machines={n: replace(m, spec="old") for n, m in THERE.machines.items()})
    assert "control-plane" in steps(old) and "retire-control-plane" not in steps(old)


def test_pods_go_home_by_name_once_the_control_plane_is_there_and_before_the_mesh_is_looked_at():
    found = steps(replace(THERE, away={"gate": "agent-2", "echo-v1": "agent-1"}, control_plane="other"))
    assert found["home"].does == "send pods home, one after the other: echo-v1 to agent-1, gate to agent-2"
    assert found["home"].needs == {"control-plane"}
    assert "home" in found["mesh"].needs


def test_a_machine_that_is_made_anew_joins_again_whatever_it_was_before():
    found = steps(machine("agent-2", spec="old"))
    assert {"remove:agent-2", "create:agent-2", "boot:agent-2", "cluster:agent-2"} <= set(found)
    assert "cluster:agent-1" not in found and "control-plane" not in found


def test_a_cluster_is_begun_anew_only_when_its_servers_are_all_gone():
    old = replace(THERE, machines={n: replace(m, spec="old") for n, m in THERE.machines.items()})
    found = steps(old)
    assert found["cluster:one"].needs == {"boot:one", "remove:one", "remove:two", "remove:three"}
    assert found["cluster:two"].needs == {"boot:two", "cluster:one"}


def test_two_changed_servers_are_changed_one_after_the_other():
    both = machine("two", cluster="old")
    both = replace(both, machines={**both.machines, "three": replace(both.machines["three"], cluster="old")})
    assert steps(both)["cluster:three"].needs == {"cluster:two"}


def test_a_lab_without_a_cluster_has_none_of_it():
    found = steps(ObservedLab(), replace(WANTED, cluster=None))
    assert not [n for n in found if n.startswith(("cluster:", "control"))]
    assert found["mesh"].does.startswith("compile the resources")


# From the inventory


def inventory(name, old="", new=""):
    text = (home() / "inventories" / f"{name}.yaml").read_text()
    assert old in text
    return read_inventory(text.replace(old, new, 1), name)


def test_a_cluster_is_what_the_inventory_says_of_it():
    assert wanted_cluster(inventory("two-nodes")) is None
    found = wanted_cluster(inventory("k3s-ha"))
    assert found.pods != wanted_cluster(inventory("k3s-small")).pods
    assert found.servers == ("server-1", "server-2", "server-3")
    assert found.agents == ("agent-1", "agent-2")
    assert len(set(found.nodes.values())) == 5


@pytest.mark.parametrize(
    ("new", "nodes", "control_plane"),
    [
        ("cluster: {version: v1.36.1+k3s1}\n\nmesh:\n", {"server", "agent"}, False),
        ("cluster: {auditLog: true}\n\nmesh:\n", {"server"}, False),
        ("mesh:\n  version: 1.30.4\n", set(), True),
        ("mesh:\n  mode: ambient\n", {"server", "agent"}, True),
        ("mesh:\n  config: {accessLogFile: /dev/stdout}\n", set(), True),
    ],
    ids=["k3s", "audit log", "istio", "ambient", "settings"],
)
def test_a_change_of_the_inventory_touches_what_it_is_about(new, nodes, control_plane):
    before, after = wanted_cluster(inventory("k3s-small")), wanted_cluster(inventory("k3s-small", "mesh:\n", new))
    assert {n for n in after.nodes if after.nodes[n] != before.nodes[n]} == nodes
    assert (after.control_plane != before.control_plane) is control_plane
    assert (after.revision != before.revision) is ("1.30.4" in new)
    assert (after.pods != before.pods) is ("1.30.4" in new or "ambient" in new)
