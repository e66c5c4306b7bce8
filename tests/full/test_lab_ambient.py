"""A lab in Istio's ambient mode on machines, from the mirror that TESTBED_MIRROR names.  In file order."""

import json

import pytest

pytestmark = pytest.mark.full

LAB = "k3s-ambient"
UP_LIMIT = 1800


def test_up_passes_the_scenario_with_pods_that_have_no_sidecars(lab):
    assert lab.report["verdict"] == "PASS"
    assert json.loads(lab.run("status", "--json"))["healthy"]
    pods_of_lab = ("get", "pods", "-A", "-l", "testbed.dev/workload", "-o", "json")
    kubectl = ("ssh", "server", "--", "k3s", "kubectl", *pods_of_lab)
    pods = {p["metadata"]["labels"]["testbed.dev/workload"]: p for p in json.loads(lab.run(*kubectl))["items"]}
    containers = {
        name: [c["name"] for c in (*p["spec"].get("initContainers", []), *p["spec"]["containers"])]
        for name, p in pods.items()
    }
    assert containers == {"ingressgateway": ["istio-proxy"], "echo-v1": ["program"], "client-v2": ["program"]}
    lab.tell_memory("server", "agent", "machine")


def test_a_second_up_does_nothing(lab):
    assert json.loads(lab.run("up", "--json"))["steps"] == {}


@pytest.mark.parametrize("name", ["ambient-mtls", "cluster-istiod-down"])
def test_a_scenario_passes_and_applies(lab, name):
    assert lab.verdicts(name) == {name: "PASS"}


def test_mutants_of_what_tunnels_promise_are_noticed(lab):
    assert "not noticed" not in lab.run("verify", "--mutants", "ambient-mtls", limit=1500)


def test_what_needs_sidecars_does_not_apply(lab):
    assert lab.verdicts("echo-mtls") == {"echo-mtls": "NOT_APPLICABLE"}


def test_a_policy_for_a_pod_is_its_ztunnels(lab, tmp_path):
    """Who is not in it reaches the pod no more as soon as `apply` returns."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: echo-v1}\n"
        "spec:\n  selector: {matchLabels: {app: echo, version: v1}}\n"
        "  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/nobody]}}]}]\n"
    )
    lab.run("apply", str(policy), limit=300)
    assert "echo-v1" in lab.run("proxy", "echo-v1", "config")
    # ztunnel cuts off whom it refuses: of so few answers and so many cut-off connections it may be either verdict
    [verdict] = json.loads(lab.run("verify", "--json", "echo-split", status=None, limit=600))
    assert verdict["verdict"] in ("FAIL", "INCONCLUSIVE")
    assert verdict["numbers"]["share of v1"] == 0


def test_it_comes_back_from_the_cache(lab):
    """Ztunnels and all; what was applied since is gone."""
    assert lab.build_again()["restored"]
    assert lab.verdicts("echo-split") == {"echo-split": "PASS"}
