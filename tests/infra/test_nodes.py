"""Nodes as pytest-testinfra sees them: through the lab's own SSH configuration, on machines that run."""

import json

import pytest

pytestmark = pytest.mark.vm


@pytest.fixture
def sidecars(lab):
    """(host, node, workload) of every workload that has a redirection."""
    return [
        (lab.testinfra_host(w.node), w.node, w.name)
        for w in lab.lab.topology.workloads
        if w.kind.value == "sidecar"
    ]


@pytest.fixture
def hosts(lab):
    return {node.name: lab.testinfra_host(node.name) for node in lab.lab.inventory.nodes}


def test_ssh_takes_keys_only(hosts):
    for host in hosts.values():
        assert host.service("ssh").is_running
        effective = host.check_output("sshd -T")
        assert "passwordauthentication no" in effective
        assert "permitrootlogin without-password" in effective
        assert effective.count("hostkey ") == 1


def test_a_node_knows_itself(hosts):
    for name, host in hosts.items():
        identity = json.loads(host.file("/etc/testbed/node.json").content_string)
        assert identity["node"] == name == host.check_output("hostname")
        assert host.file("/etc/ssh/ssh_host_ed25519_key").mode == 0o600


def test_no_two_nodes_share_an_identity(hosts):
    ids = [host.check_output("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") for host in hosts.values()]
    assert len(set(ids)) == len(ids)


def test_what_nodes_share_is_read_only(hosts):
    for host in hosts.values():
        assert "ro" in host.mount_point("/opt/testbed").options
        assert host.run("/opt/testbed/bin/envoy --version").stdout.count("1.40.0") == 1


def test_python_has_what_the_traffic_agent_needs(hosts):
    for host in hosts.values():
        host.check_output("python3 -c 'import asyncio, json, sqlite3, ssl, h2'")


def test_no_unit_has_failed(hosts):
    for host in hosts.values():
        assert host.check_output("systemctl --failed --no-legend") == ""


def test_every_workload_has_its_units(sidecars):
    for host, _, workload in sidecars:
        assert host.service(f"testbed-netns@{workload}").is_running
        assert host.service(f"testbed-sidecar@{workload}").is_running
        assert host.service(f"testbed-sidecar@{workload}").is_enabled


def test_traffic_is_redirected_in_every_namespace(sidecars):
    for host, _, workload in sidecars:
        rules = host.check_output(f"ip netns exec {workload} nft list table ip testbed")
        assert "redirect to :15001" in rules
        assert "redirect to :15006" in rules


def test_sidecars_run_as_their_own_user(sidecars):
    for host, _, _ in sidecars:
        users = {p.user for p in host.process.filter(comm="envoy")}
        assert users == {"istio-proxy"}


def test_no_admin_port_is_reachable_from_outside_its_namespace(lab, sidecars):
    addresses = {w.name: w.address for w in lab.lab.topology.workloads}
    host, _, first = sidecars[0]
    for _, _, workload in sidecars[1:]:
        knock = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{addresses[workload]}/15000'"
        assert host.run(f"ip netns exec {first} setpriv --reuid 1337 --regid 1337 --clear-groups {knock}").rc != 0
    assert host.run(f"ip netns exec {first} bash -c 'exec 3<>/dev/tcp/127.0.0.1/15000'").rc == 0


def test_the_route_that_redirection_needs_is_there(sidecars):
    for host, _, workload in sidecars:
        assert "240.240.0.0/16 dev eth0" in host.check_output(f"ip netns exec {workload} ip route")
