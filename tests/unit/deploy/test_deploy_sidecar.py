"""Istio's sidecar on a machine outside the cluster: the inventory in, files out.

Write the golden file anew with: TESTBED_GOLDEN=write pytest tests/unit/deploy/test_deploy_sidecar.py
"""

import os
from ipaddress import IPv4Address, IPv4Network

import pytest

from testbed.deploy.files import Found, commands
from testbed.deploy.sidecar import Identity, SidecarRelease, hosts_file, routes, sidecar_files
from testbed.host.directories import testbed_home as home
from testbed.model.reading import read_inventory, topology_of

GOLDEN = home() / "tests" / "golden" / "k3s" / "k3s-small-sidecar-echo-v2.txt"
SECRET = Identity("secret-token", "root\n", 1234)
RELEASE = SidecarRelease("1.31.0")


def small():
    return read_inventory((home() / "inventories" / "k3s-small.yaml").read_text(), "k3s-small")


def files(identity=SECRET, release=RELEASE):
    there = small()
    return sidecar_files(there, topology_of(there).workload("echo-v2"), identity, release, '{"concurrency": 1}')


def test_another_release_restarts_with_its_own_programs_and_is_noted_on_the_machine():
    has = Found({f.path: (f.digest, f.mode) for f in files().files}, {}, "active")
    newer = files(release=SidecarRelease("1.32.0", "/opt/istio-1.32.0"))
    steps = commands(newer, has)
    assert [c.text for c in steps if "restart" in c.text] == [
        "systemctl restart --no-block testbed-sidecar@echo-v2.service"
    ]
    assert [f.content for f in newer.files if f.path == "/etc/testbed/istio/echo-v2/release"] == ["1.32.0\n"]
    programs = [line for f in newer.files for line in f.content.splitlines() if "/usr/local/bin/" in line]
    assert len(programs) == 2
    assert all("/opt/istio-1.32.0/" in line and "/opt/testbed" not in line for line in programs)
    assert not commands(files(), has)


def test_a_machines_sidecar_gets_these_files():
    found = files()
    lines = [f"unit {found.unit}"]
    for file in found.files:
        lines += [f"--- {file.path} {file.mode:o}", file.content.rstrip("\n")]
    text = "\n".join(lines) + "\n"
    if os.environ.get("TESTBED_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_agent_is_told_what_the_mesh_tells_pods():
    there = small()
    settings = '{"proxyMetadata": {"ISTIO_META_ENABLE_HBONE": "true"}}'
    found = sidecar_files(there, topology_of(there).workload("echo-v2"), SECRET, RELEASE, settings)
    [text] = (f.content for f in found.files if f.path.endswith("/env"))
    assert 'ISTIO_META_ENABLE_HBONE="true"\n' in text


def test_only_root_reads_the_token_and_a_new_one_restarts_nothing():
    [token] = [f for f in files().files if "secret-token" in f.content]
    assert (token.mode, token.restarts) == (0o600, False)
    there = {f.path: (f.digest, f.mode) for f in files().files}
    has = Found(there, {}, "active")
    assert commands(files(), has) == ()
    steps = commands(files(Identity("another", "root\n", 5678)), has)
    assert not [c for c in steps if "systemctl" in c.text]
    assert len(steps) == 2


def test_another_root_restarts_and_a_new_unit_is_read_first():
    has = Found({f.path: (f.digest, f.mode) for f in files().files if not f.path.endswith(".conf")}, {}, "active")
    assert [c.text.split()[1] for c in commands(files(), has) if c.text.startswith("systemctl")] == [
        "daemon-reload",
        "restart",
    ]


def test_a_machine_knows_names_without_asking_anybody():
    there = small()
    assert hosts_file(there, topology_of(there)).splitlines() == [
        "127.0.0.1 localhost",
        "10.43.0.20 istiod.istio-system.svc istiod.istio-system.svc.cluster.local",
        "10.43.0.32 echo echo.default echo.default.svc echo.default.svc.cluster.local",
    ]


@pytest.mark.parametrize(("lab", "via"), [("k3s-small", "10.78.0.10"), ("k3s-ha", "10.78.0.9")])
def test_a_machine_reaches_pods_and_services_through_the_server_or_whichever_of_several_has_the_address(lab, via):
    there = read_inventory((home() / "inventories" / f"{lab}.yaml").read_text(), lab)
    ways = {IPv4Network(network): hop for network, hop in routes(there)}
    for address in ("10.42.1.7", "10.43.0.20"):
        assert [hop for network, hop in ways.items() if IPv4Address(address) in network] == [via]
