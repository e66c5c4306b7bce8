"""The workloads deploy, run by the real pyinfra on this host, against a folder that looks like a node."""

import json
from pathlib import Path

import pytest

from testbed.deploy import DeployFailed, DeployHost, run_deploy
from testbed.errors import WaitTimeout

REPOSITORY = Path(__file__).parents[3]
DEPLOY = REPOSITORY / "playbooks/deploys/workloads.py"
WORKLOADS = json.dumps([{"name": "echo-v1", "service": "echo", "version": "v1", "address": "10.78.0.50"}])


@pytest.fixture
def node(tmp_path):
    (tmp_path / "etc/testbed").mkdir(parents=True)
    return tmp_path


def deploy(node, document=WORKLOADS):
    data = {
        "workloads": document,
        "root": str(node),
        "node_tool": str(REPOSITORY / "images/shared/node/testbed_node.py"),
    }
    return run_deploy(DEPLOY, [DeployHost("here", data, "local")])


def test_the_node_takes_the_list_up(node):
    outcome = deploy(node).require().hosts["here"]
    assert (outcome.changed, outcome.error) == (1, "")
    assert json.loads(outcome.output)["created"] == ["echo-v1"]
    assert (node / "etc/testbed/workloads.json").read_text().strip() == WORKLOADS


def test_the_same_list_again_changes_nothing(node):
    assert deploy(node, WORKLOADS + "\n").changed
    assert not deploy(node, WORKLOADS + "\n").changed


def test_a_list_that_was_edited_on_the_node_is_put_back(node):
    deploy(node, WORKLOADS + "\n")
    (node / "etc/testbed/workloads.json").write_text("[]")
    assert deploy(node, WORKLOADS + "\n").changed


def test_a_list_that_was_not_taken_up_is_tried_again(node):
    deploy(node, WORKLOADS + "\n")
    (node / "etc/testbed/workloads.applied").unlink()
    assert deploy(node, WORKLOADS + "\n").changed


def test_a_node_that_refuses_says_why(node):
    result = deploy(node, '[{"name": "No Name"}]')
    assert "'No Name' is no name of a workload" in result.failed["here"]
    with pytest.raises(DeployFailed, match=r"here: deploy: .*is no name"):
        result.require()


def test_a_node_that_cannot_be_reached_does_not_stop_the_others(node, tmp_path):
    config = tmp_path / "ssh_config"
    config.write_text("Host gone\n  HostName 127.0.0.1\n  Port 1\n  StrictHostKeyChecking yes\n")
    data = {
        "workloads": WORKLOADS,
        "root": str(node),
        "node_tool": str(REPOSITORY / "images/shared/node/testbed_node.py"),
    }
    hosts = [DeployHost("gone", {"workloads": WORKLOADS}), DeployHost("here", data, "local")]
    result = run_deploy(DEPLOY, hosts, ssh_config=config)
    assert "Could not connect" in result.failed["gone"]
    assert result.hosts["here"].changed == 1


def test_a_deploy_that_is_no_python_is_one_error(tmp_path):
    (tmp_path / "broken.py").write_text("def (\n")
    with pytest.raises(DeployFailed, match=r"SyntaxError|invalid syntax"):
        run_deploy(tmp_path / "broken.py", [DeployHost("here", {}, "local")]).require()


def test_a_deploy_ends_at_its_limit(tmp_path):
    (tmp_path / "long.py").write_text("import time\ntime.sleep(30)\n")
    with pytest.raises(WaitTimeout):
        run_deploy(tmp_path / "long.py", [DeployHost("here", {}, "local")], limit=1.5)


def test_data_is_in_no_representation():
    assert "secret" not in repr(DeployHost("here", {"workloads": "secret"}))
