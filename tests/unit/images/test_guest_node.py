"""testbed_node.py: what a node makes of its list of workloads, tried on a folder that looks like one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[3] / "images/shared/node/testbed_node.py"
REVIEWS = {
    "name": "reviews-v2",
    "namespace": "default",
    "service": "reviews",
    "version": "v2",
    "address": "10.78.0.101",
    "prefix": 24,
    "gateway": False,
    "program": "bookinfo",
    "ports": [9080],
    "env": {"GREETING": 'a "b" $c'},
}
GATEWAY = {"name": "ingressgateway", "address": "10.78.0.102", "gateway": True, "program": "none", "ports": [80]}


@pytest.fixture
def node(tmp_path):
    (tmp_path / "etc/testbed").mkdir(parents=True)
    (tmp_path / "etc/testbed/node.json").write_text('{"node": "app-1"}')
    return tmp_path


def run(node, command, workloads=None):
    if workloads is not None:
        (node / "etc/testbed/workloads.json").write_text(json.dumps(workloads))
    return subprocess.run(
        [sys.executable, "-ISE", TOOL, command, "--root", str(node)], capture_output=True, text=True, check=False
    )


def converge(node, workloads):
    return json.loads(run(node, "converge", workloads).stdout)


def enabled(node):
    return sorted(p.name for p in (node / "etc/systemd/system/multi-user.target.wants").iterdir())


def test_a_workload_gets_what_its_units_need(node):
    assert converge(node, [REVIEWS])["created"] == ["reviews-v2"]
    folder = node / "etc/testbed/workloads/reviews-v2"
    assert "address 52:58:0a:4e:00:65 netns reviews-v2 type macvlan" in (folder / "links").read_text()
    assert "route add 240.240.0.0/16 dev eth0" in (folder / "addresses").read_text()
    assert "redirect to :15006" in (folder / "redirect.nft").read_text()
    environment = (folder / "env").read_text()
    assert 'SERVICE="reviews"\nVERSION="v2"' in environment
    assert 'NODE="app-1"' in environment
    assert 'GREETING="a \\"b\\" \\$c"' in environment
    assert enabled(node) == [f"testbed-{kind}@reviews-v2.service" for kind in ("netns", "program", "sidecar")]


def test_a_gateway_is_not_redirected_and_runs_no_program(node):
    converge(node, [GATEWAY])
    assert "redirect to" not in (node / "etc/testbed/workloads/ingressgateway/redirect.nft").read_text()
    assert "testbed-program@ingressgateway.service" not in enabled(node)


def test_the_same_list_changes_nothing(node):
    converge(node, [REVIEWS, GATEWAY])
    again = converge(node, [REVIEWS, GATEWAY])
    assert again["created"] == again["updated"] == again["removed"] == []


def test_a_workload_that_is_gone_leaves_nothing(node):
    converge(node, [REVIEWS, GATEWAY])
    proxy = node / "etc/testbed/proxies/reviews-v2"
    proxy.mkdir(parents=True)
    assert converge(node, [GATEWAY])["removed"] == ["reviews-v2"]
    assert not proxy.exists()
    assert not [name for name in enabled(node) if "reviews" in name]


def test_a_change_is_told_and_taken_up(node):
    converge(node, [REVIEWS])
    changed = {**REVIEWS, "env": {}}
    assert converge(node, [changed])["updated"] == ["reviews-v2"]
    assert "GREETING" not in (node / "etc/testbed/workloads/reviews-v2/env").read_text()


def test_status_tells_what_was_taken_up(node):
    digest = converge(node, [REVIEWS])["digest"]
    (node / "etc/testbed/workloads.json").write_text("[]")
    status = json.loads(run(node, "status").stdout)
    assert status["applied"] == digest != status["digest"]
    assert status["workloads"]["reviews-v2"]["wanted"] is False


@pytest.mark.parametrize(
    "workloads", [[{"name": "../x"}], [REVIEWS, REVIEWS], [{"name": "a", "address": "x"}], {"a": 1}]
)
def test_nonsense_is_one_line(node, workloads):
    done = run(node, "converge", workloads)
    assert done.returncode == 1
    assert done.stderr.startswith("testbed_node: converge: ")
    assert done.stderr.count("\n") == 1
