"""A lab with k3s and Istio on machines, from the mirror that TESTBED_MIRROR names: what docs/howto/kubernetes.md says.

One lab for the whole file, in file order; `up` has to pass the inventory's scenario.
"""

import json
import shutil
import subprocess

import pytest
import yaml

pytestmark = pytest.mark.full

LAB = "k3s-small"
UP_LIMIT = 1800


def test_up_passes_the_scenario_with_a_pod_and_a_machine_in_one_mesh(lab):
    assert lab.report["verdict"] == "PASS"
    assert not lab.report["not_kept"]
    status = json.loads(lab.run("status", "--json"))
    assert status["healthy"]
    assert sorted(status["proxies"]) == ["client-v1", "echo-v1", "echo-v2", "ingressgateway"]
    lab.tell_memory("server", "agent", "machine")


def test_a_second_up_does_nothing(lab):
    assert json.loads(lab.run("up", "--json"))["steps"] == {}


def test_the_scenario_fails_when_its_configuration_is_broken_on_purpose(lab):
    assert "not noticed" not in lab.run("verify", "--mutants", "echo-split", limit=600)


@pytest.mark.parametrize("name", ["echo-mtls", "cluster-istiod-down", "cluster-machine-lost", "cluster-pods-moved"])
def test_a_scenario_passes_and_applies(lab, name):
    """The wire, istiod's absence, a lost machine, a lost node; NOT_APPLICABLE ends with 0 as well, and would say nothing."""
    assert lab.verdicts(name) == {name: "PASS"}


KINDS = ("sidecar-restart", "sidecar-hang", "service-hang", "service-kill", "sidecar-kill")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_in_a_pod_takes_hold_and_is_mended(lab, kind):
    """Its proof is measured, and it is over once the pod's program listens and its proxy says that it is ready."""
    lasts = () if kind == "sidecar-restart" else ("--for", "15s")
    told = lab.run("fault", kind, "echo-v1", *lasts, limit=900)
    lab.tell(f"{kind}: {told.strip()}")
    assert json.loads(lab.run("fault", "list", "--json")) == []


def test_the_exported_kubeconfig_is_merged_and_leads_to_the_cluster(lab, tmp_path, monkeypatch):
    file = tmp_path / "config"
    file.write_text("apiVersion: v1\nkind: Config\ncurrent-context: mine\ncontexts: [{name: mine, context: {}}]\n")
    monkeypatch.setenv("KUBECONFIG", str(file))
    lab.run("export", "kubeconfig", "--merge")
    config = yaml.safe_load(file.read_text())
    nodes = ["kubectl", "--kubeconfig", str(file), "--context", f"testbed-{LAB}", "get", "nodes", "-o", "name"]
    if shutil.which("kubectl"):
        said = subprocess.run(nodes, capture_output=True, text=True, check=True, timeout=60).stdout
        assert sorted(said.split()) == ["node/agent", "node/server"]
    assert config["current-context"] == "mine"
    assert [c["name"] for c in config["contexts"]] == ["mine", f"testbed-{LAB}"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_machines_workload_keeps_its_identity_over_a_reboot(lab):
    """Its certificate is on the disk and renews itself: no token is needed, which may have run out meanwhile."""
    lab.run("ssh", "machine", "--", "sh", "-c", "echo none >/etc/testbed/istio/echo-v2/token")
    lab.run("fault", "reset", "machine")
    lab.run("up", limit=UP_LIMIT)
    lab.run("verify", "echo-split", limit=UP_LIMIT)


def test_it_comes_back_from_the_cache(lab):
    """With its state, its pods and its machine: `up` restores what the first one verified."""
    assert lab.build_again()["restored"]
    assert json.loads(lab.run("status", "--json"))["healthy"]
    assert lab.verdicts("echo-split") == {"echo-split": "PASS"}


def test_a_snapshot_of_the_cluster_is_restored_again_and_again(lab):
    """What was changed after it is gone, in the API too, and what it has goes on."""
    lab.run("snapshot", "save", "one", limit=300)
    kubectl = ("ssh", "server", "--", "k3s", "kubectl")
    for _ in range(2):
        lab.run(*kubectl, "create", "configmap", "later", "--from-literal=a=b")
        lab.run("snapshot", "restore", "one", limit=600)
        assert "NotFound" in lab.run(
            "ssh", "server", "--", "sh", "-c", "k3s kubectl get configmap later 2>&1; true"
        )
        nodes = lab.run(*kubectl, "get", "nodes", "--no-headers")
        assert [line.split()[1] for line in nodes.splitlines()] == ["Ready", "Ready"]
        assert lab.verdicts("echo-split") == {"echo-split": "PASS"}
    lab.run("snapshot", "delete", "one")
