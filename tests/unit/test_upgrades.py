"""Releases of a lab that is up: what is brought, in which order nodes are upgraded, and what is refused."""

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.artifacts import Releases, with_releases
from testbed.backends.istio.draining import movable
from testbed.deploy.bringing import FINISH, UNANSWERED, files_for
from testbed.errors import BadInput, LabError
from testbed.faults.breaking import Breaker
from testbed.faults.grips import UpgradeGrip
from testbed.host.directories import testbed_home as home
from testbed.lab.lab import Lab
from testbed.model.fault import Fault
from testbed.model.reading import read_inventory
from testbed.model.upgrades import k3s_refusal
from testbed.plan import ObservedLab, ObservedMachine, WantedCluster, WantedLab, WantedMachine, plan_up
from testbed.plan.faults import Upgrade
from testbed.workflows.bringing import newer
from testbed.workflows.cluster import wanted_cluster

OLD, NEW = "v1.35.6+k3s1", "v1.36.1+k3s1"
NODES = ("server", "agent", "machine")
BEFORE = WantedCluster(("server",), ("agent",), {"server": "s", "agent": "a"}, "istio", "pods", k3s=OLD)
BROUGHT = frozenset({f"k3s/{NEW}"})
AFTER = replace(
    BEFORE, nodes={"server": "s2", "agent": "a2"}, k3s=NEW, brought={"server": BROUGHT, "agent": BROUGHT}
)
WANTED = WantedLab("lab", False, {}, {n: WantedMachine("m", "w") for n in NODES}, {}, AFTER)
THERE = ObservedLab(
    image=True,
    shared=True,
    machines={
        n: ObservedMachine("m", True, True, "w", BEFORE.nodes.get(n), k3s=OLD if n in BEFORE.nodes else "")
        for n in NODES
    },
    control_plane="istio",
    pods="pods",
    mesh_in_force=True,
)


def steps(observed, wanted=WANTED):
    return {s.name: s for s in plan_up(wanted, observed)}


def test_nodes_are_brought_the_release_and_upgraded_in_turn_servers_first():
    found = steps(THERE)
    assert list(found) == ["bring:server", "bring:agent", "upgrade:server", "upgrade:agent", "pods", "mesh"]
    assert found["upgrade:server"].needs == {"bring:server"}
    assert found["upgrade:agent"].needs == {"bring:agent", "upgrade:server"}
    assert found["pods"].needs >= {"upgrade:server", "upgrade:agent"}
    assert found["upgrade:agent"].does == f"drain it, take k3s from {OLD} to {NEW}, let pods on it again"


def test_what_was_done_before_a_try_broke_off_is_not_done_again():
    machines = {
        **THERE.machines,
        "server": replace(THERE.machines["server"], cluster="s2", k3s=NEW, brought=BROUGHT),
        "agent": replace(THERE.machines["agent"], brought=BROUGHT),
    }
    assert list(steps(replace(THERE, machines=machines))) == ["upgrade:agent", "pods", "mesh"]


def test_a_machine_made_anew_in_an_upgraded_lab_is_brought_the_release_and_then_joins():
    done = {n: replace(m, cluster=AFTER.nodes.get(n), k3s=NEW, brought=BROUGHT) for n, m in THERE.machines.items()}
    done["agent"] = replace(done["agent"], spec="old")
    found = steps(replace(THERE, machines=done))
    assert "upgrade:agent" not in found
    assert found["bring:agent"].needs == {"boot:agent"}
    assert found["cluster:agent"].needs == {"boot:agent", "bring:agent"}


def small():
    return read_inventory((home() / "inventories" / "k3s-small.yaml").read_text(), "k3s-small.yaml")


def test_machines_stay_as_they_were_made_and_get_what_is_newer():
    inventory = small()
    began = Releases(OLD, "1.31.0")
    old, new = (with_releases(inventory, replace(began, k3s=v)) for v in (OLD, NEW))
    assert newer(old, began) == {}
    assert newer(old, None) == {}
    assert newer(new, began) == {"server": BROUGHT, "agent": BROUGHT, "machine": frozenset()}
    fresh, upgraded = wanted_cluster(new), wanted_cluster(new, began=began)
    assert fresh.brought == {}
    assert set(fresh.nodes.values()).isdisjoint(upgraded.nodes.values())
    both = newer(with_releases(inventory, Releases(NEW, "1.30.4")), began)
    assert both["machine"] == {"istio/1.30.4"}
    assert both["agent"] == {"istio/1.30.4", f"k3s/{NEW}"}


ISTIO = ("istio/pilot.tar", "istio/proxyv2.tar", "istio/istio-sidecar.deb")
FILES = {place: Path(place) for place in ("k3s/k3s", "k3s/k3s-images.tar", "samples/samples.tar", *ISTIO)}


@pytest.mark.parametrize(
    ("node", "product", "names"),
    [
        (0, "k3s", ["images.tar", "k3s"]),
        (0, "istio", ["pilot.tar", "proxyv2.tar"]),
        (1, "istio", ["proxyv2.tar"]),
        (2, "istio", ["istio-sidecar.deb"]),
        (2, "k3s", []),
    ],
    ids=["k3s on a server", "Istio on a server", "Istio on an agent", "Istio on a machine", "k3s on a machine"],
)
def test_a_node_is_sent_what_it_needs(node, product, names):
    assert sorted(files_for(small().nodes[node], product, FILES)) == names


@pytest.mark.parametrize(
    ("now", "wanted", "why"),
    [
        (OLD, NEW, ""),
        (NEW, NEW, ""),
        ("v1.36.1+k3s1", "v1.36.1+k3s2", ""),
        (NEW, OLD, f"k3s can't go back from {NEW} to {OLD}"),
        ("v1.34.5+k3s1", NEW, "one minor version at a time"),
        ("v1.36.1+k3s2", "v1.36.1+k3s1", "go back"),
    ],
)
def test_an_upgrade_takes_one_minor_version_and_never_goes_back(now, wanted, why):
    reason = k3s_refusal(now, wanted)
    assert why in reason and bool(why) == bool(reason)


def node(name, ready="True", labels=(), **spec):
    conditions = [{"type": "Ready", "status": ready}]
    return {"metadata": {"name": name, "labels": dict(labels)}, "status": {"conditions": conditions}, "spec": spec}


def pod(name, owner="ReplicaSet", phase="Running", **selector):
    owners = [{"kind": owner}] if owner else []
    spec = {"nodeSelector": selector} if selector else {}
    return {"metadata": {"name": name, "ownerReferences": owners}, "status": {"phase": phase}, "spec": spec}


PODS = [
    pod("app"),
    pod("bound", **{"kubernetes.io/hostname": "one"}),
    pod("daemon", owner="DaemonSet"),
    pod("static", owner="Node"),
    pod("bare", owner=""),
    pod("done", owner="Job", phase="Succeeded"),
]


@pytest.mark.parametrize(
    ("others", "names"),
    [
        ([node("two")], ["app"]),
        ([node("two", labels=[("kubernetes.io/hostname", "one")])], ["app", "bound"]),
        ([node("two", ready="False")], []),
        ([node("two", unschedulable=True)], []),
        ([], []),
    ],
    ids=["another node", "one that fits", "not ready", "cordoned", "alone"],
)
def test_a_drain_moves_what_another_node_may_run(others, names):
    assert [p["metadata"]["name"] for p in movable(PODS, [node("one"), *others], "one")] == names


class Upgrading:
    """Plays who upgrades a lab: so many steps are left at each look."""

    def __init__(self, *left):
        self.left = list(left)
        self.performed = 0

    def pending(self):
        return tuple(f"upgrade:{n}" for n in range(self.left.pop(0)))

    def perform(self):
        self.performed += 1
        return "server v2"


def test_an_upgrade_proves_itself_by_nothing_being_left_to_do():
    done, half = Upgrading(0), Upgrading(1)
    for upgrading, held, words in ((done, True, "server v2"), (half, False, "left to do: upgrade:0")):
        grip = UpgradeGrip(Upgrade("server"), upgrading)
        grip.begin()
        proof = grip.prove()
        assert (proof.held, proof.words, upgrading.performed) == (held, words, 1)
        grip.end()
    with pytest.raises(LabError, match="nobody here can"):
        UpgradeGrip(Upgrade("server"), None).begin()


def test_an_upgrade_is_of_a_whole_cluster_that_has_something_to_upgrade():
    fault = Fault(kind="upgrade", target="cluster")
    assert "testbed up" in Breaker(Lab(small())).unable(fault)
    assert Breaker(Lab(small()), Upgrading(2)).unable(fault) == ""
    assert "runs the releases" in Breaker(Lab(small()), Upgrading(0)).unable(fault)
    assert "whole cluster" in Breaker(Lab(small()), Upgrading(2)).unable(Fault(kind="upgrade", target="agent"))
    text = (home() / "inventories" / "two-nodes.yaml").read_text()
    assert "no cluster" in Breaker(Lab(read_inventory(text, "two-nodes.yaml"))).unable(fault)
    with pytest.raises(BadInput, match="an upgrade is no fault"):
        Breaker(Lab(small())).make(fault)


def finish(top, folder, programs=""):
    """Let a node at ``top`` unpack what lies in the release's folder, with what is in the folder ``programs``."""
    script = FINISH.replace("/var/lib/rancher", f"{top}/rancher").replace("/run/k3s", f"{top}/run")
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", script, "-", str(folder)], capture_output=True, text=True, env=env, check=False
    )


@pytest.mark.parametrize("runs", [True, False], ids=["a node that runs", "a new machine"])
def test_k3s_unpacks_itself_beside_what_runs(tmp_path, runs):
    shared, own = tmp_path / "shared", tmp_path / "rancher" / "k3s"
    own.mkdir(parents=True)
    if runs:
        (shared / "old" / "bin").mkdir(parents=True)
        (shared / "cni").mkdir()
        (shared / "cni" / "cni").symlink_to("../old/bin/cni")
        (shared / "current").symlink_to("old")
        (own / "data").symlink_to(shared)
    folder = tmp_path / "releases" / "k3s" / NEW
    for _ in range(2):  # as after a try that broke off
        arriving = folder.with_name(f"{NEW}.new")
        arriving.mkdir(parents=True)
        (arriving / "k3s").write_text(f"#!/bin/sh\nmkdir -p {own}/data/new && ln -sfn new {own}/data/current\n")
        (arriving / "images.tar").write_text("images")
        assert finish(tmp_path, folder).returncode == 0
    assert sorted(p.name for p in folder.parent.iterdir()) == [NEW]
    assert [p.name for p in folder.iterdir()] == ["k3s"]
    assert (own / "agent" / "images" / "k3s-images.tar").read_text() == "images"
    assert (own / "data").readlink() == own / "data-own"
    assert (own / "data" / "current").resolve() == own / "data-own" / "new"
    if runs:
        assert (own / "data" / "old").resolve() == shared / "old"
        assert (own / "data" / "cni" / "cni").readlink() == Path("../old/bin/cni")
    assert {p.name for p in (own / "data").iterdir()} == ({"old", "cni"} if runs else set()) | {"new", "current"}


@pytest.mark.parametrize(
    ("answers", "status"),
    [("true", 0), ("false", 1), ("gone", UNANSWERED)],
    ids=["takes it", "refuses it", "is away"],
)
def test_a_containerd_that_is_away_is_told_from_one_that_refuses_an_image(tmp_path, answers, status):
    """It is away while k3s starts anew; then the same is said again, and goes on with what is left."""
    programs, run = tmp_path / "bin", tmp_path / "run" / "containerd"
    programs.mkdir()
    run.mkdir(parents=True)
    (programs / "k3s").write_text(
        f"#!/bin/sh\ncase $* in *version*) exit {int(answers == 'gone')};; esac\n{answers}\n"
    )
    (programs / "k3s").chmod(0o755)
    folder = tmp_path / "releases" / "istio" / "1.31.0"
    arriving = folder.with_name("1.31.0.new")
    arriving.mkdir(parents=True)
    (arriving / "pilot.tar").write_text("an image")
    with socket.socket(socket.AF_UNIX) as containerd:
        containerd.bind(str(run / "containerd.sock"))
        done = finish(tmp_path, folder, programs)
        assert done.returncode == status
        assert ("containerd does not answer" in done.stderr) is (status == UNANSWERED)
        assert (arriving / "pilot.tar").exists() is (status != 0)
        (programs / "k3s").write_text("#!/bin/sh\ntrue\n")
        if status == UNANSWERED:
            assert finish(tmp_path, folder, programs).returncode == 0
            assert list(folder.iterdir()) == []
