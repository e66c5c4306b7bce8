"""Bookinfo on a server, two agents and two machines outside the cluster, below a CA of somebody else's.

From the mirror that TESTBED_MIRROR names; one lab for the whole file, in file order.
"""

import base64
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from external_pki import external
from mirrored import MirroredLab

from testbed.pki import LabCa

pytestmark = pytest.mark.full

LAB = "k3s-istio"
UP_LIMIT = 3600


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = MirroredLab(LAB, tmp_path_factory.mktemp("inventory"))
    root = LabCa.create("somebody else's root")
    now = datetime.now(UTC)
    folder = external(root, made.file.parent, now - timedelta(days=1), now + timedelta(days=300))
    (folder / "ca-key.pem").chmod(0o600)
    data = yaml.safe_load(made.file.read_text())
    data["mesh"]["ca"] = str(folder)
    made.file.write_text(yaml.safe_dump(data, sort_keys=False))
    made.root = root
    try:
        made.build(UP_LIMIT)
        yield made
    finally:
        made.run("down", limit=120)


def test_up_passes_the_scenario_with_workloads_in_pods_and_on_machines(lab):
    assert lab.report["verdict"] == "PASS"
    status = json.loads(lab.run("status", "--json"))
    assert status["healthy"]
    assert {"reviews-v1", "reviews-v2", "reviews-v3", "ratings-v1"} <= set(status["proxies"])
    lab.tell_memory("server", "agent-1", "agent-2", "machine-1", "machine-2")


@pytest.mark.parametrize("workload", ["reviews-v2", "reviews-v3"])
def test_pods_and_machines_prove_themselves_below_that_root(lab, workload):
    shown = re.findall(r'"inline_bytes": "([^"]+)"', lab.run("proxy", workload, "config"))
    assert any(lab.root.roots.strip() in base64.b64decode(each) for each in shown)


@pytest.mark.parametrize("name", ["mtls", "authorization", "jwt", "timeout-retries", "cluster-node-lost"])
def test_a_scenario_passes_and_applies(lab, name):
    assert lab.verdicts(name, limit=2400) == {name: "PASS"}


def test_all_is_at_home_again(lab):
    lab.run("up", limit=UP_LIMIT)
    assert json.loads(lab.run("status", "--json"))["healthy"]
    assert lab.verdicts("reviews-split") == {"reviews-split": "PASS"}
