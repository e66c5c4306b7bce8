"""A lab with k3s and Istio on machines, from the mirror that TESTBED_MIRROR names: what docs/howto/kubernetes.md says.

One lab for the whole file, in file order; `up` has to pass the inventory's scenario.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1]))
from commands import COMMAND

pytestmark = pytest.mark.full

LAB = "k3s-small"
UP_LIMIT = 1800


def run(*words, status=0, limit=300):
    done = subprocess.run(
        [*COMMAND, words[0], "-i", LAB, *words[1:]], capture_output=True, text=True, timeout=limit, check=False
    )
    assert done.returncode == status, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def lab():
    if not os.environ.get("TESTBED_MIRROR"):
        pytest.skip("TESTBED_MIRROR names no mirror with k3s and Istio")
    subprocess.run([*COMMAND, "artifacts", "pull", "-i", LAB], check=True, timeout=600)
    try:
        yield json.loads(run("up", "--json", limit=UP_LIMIT))
    finally:
        run("down", limit=120)


def test_up_passes_the_scenario_with_a_pod_and_a_machine_in_one_mesh(lab):
    assert lab["verdict"] == "PASS"
    status = json.loads(run("status", "--json"))
    assert status["healthy"]
    assert sorted(status["proxies"]) == ["client-v1", "echo-v1", "echo-v2", "ingressgateway"]


def test_a_second_up_does_nothing(lab):
    assert json.loads(run("up", "--json"))["steps"] == {}


def test_the_scenario_fails_when_its_configuration_is_broken_on_purpose(lab):
    assert "not noticed" not in run("verify", "--mutants", "echo-split", limit=600)


@pytest.mark.parametrize("name", ["echo-mtls", "cluster-istiod-down", "cluster-machine-lost"])
def test_a_scenario_passes_and_applies(lab, name):
    """The wire, istiod's absence, a lost machine; NOT_APPLICABLE ends with 0 as well, and would say nothing."""
    [verdict] = json.loads(run("verify", "--json", name, limit=1500))
    assert (verdict["scenario"], verdict["verdict"]) == (name, "PASS"), verdict


def test_the_exported_kubeconfig_is_merged_and_leads_to_the_cluster(lab, tmp_path, monkeypatch):
    file = tmp_path / "config"
    file.write_text("apiVersion: v1\nkind: Config\ncurrent-context: mine\ncontexts: [{name: mine, context: {}}]\n")
    monkeypatch.setenv("KUBECONFIG", str(file))
    run("export", "kubeconfig", "--merge")
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
    run("ssh", "machine", "sh", "-c", "'echo none >/etc/testbed/istio/echo-v2/token'")
    run("fault", "reset", "machine")
    run("up", limit=UP_LIMIT)
    run("verify", "echo-split", limit=UP_LIMIT)
