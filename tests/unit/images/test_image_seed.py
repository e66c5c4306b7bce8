"""The seed disk: one node's identity, readable by its owner only."""

import io
import json
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pycdlib
import pytest
import yaml

from testbed.images import (
    MANAGEMENT_MAC,
    MESH_MAC,
    NodeSeed,
    load_recipe,
    mac_address,
    nocloud_files,
    seed_iso,
    write_seed,
)

REPOSITORY = Path(__file__).parents[3]
SEED = NodeSeed(
    lab="demo",
    node="app-1",
    machine_id="0123456789abcdef" * 2,
    host_key=b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
    host_key_public="ssh-ed25519 AAAA host",
    authorized_keys=("ssh-ed25519 BBBB me",),
    management=IPv4Interface("10.77.0.12/24"),
    mesh=IPv4Interface("10.78.0.12/22"),
)


def read(iso: bytes, path: str) -> bytes:
    disk = pycdlib.PyCdlib()
    disk.open_fp(io.BytesIO(iso))
    out = io.BytesIO()
    disk.get_file_from_iso_fp(out, rr_path=path)
    disk.close()
    return out.getvalue()


def test_a_mac_spells_the_address():
    assert mac_address(MANAGEMENT_MAC, IPv4Address("10.77.0.12")) == "52:54:0a:4d:00:0c"
    assert mac_address(MESH_MAC, IPv4Address("10.78.255.1")) == "52:56:0a:4e:ff:01"


def test_the_disk_is_labelled_as_nocloud_wants_it():
    assert seed_iso(SEED)[32808:32814] == b"cidata"


def test_the_identity_is_on_the_disk():
    iso = seed_iso(SEED)
    assert read(iso, "/testbed/hostname") == b"app-1\n"
    assert read(iso, "/testbed/authorized_keys") == b"ssh-ed25519 BBBB me\n"
    assert read(iso, "/testbed/host_key") == SEED.host_key
    identity = json.loads(read(iso, "/testbed/node.json"))
    assert identity == {"lab": "demo", "node": "app-1", "management": "10.77.0.12/24", "mesh": "10.78.0.12/22"}


def test_prefixes_and_gateway_are_the_networks_own():
    network = read(seed_iso(SEED), "/testbed/network").decode()
    assert network == "MANAGEMENT_PREFIX=24\nMESH_PREFIX=22\nMANAGEMENT_GATEWAY=10.77.0.1\n"


def test_only_the_owner_can_read_it(tmp_path):
    path = tmp_path / "seed.iso"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_seed(SEED, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["seed.iso"]


def test_a_private_key_is_in_no_representation():
    assert "PRIVATE KEY" not in repr(SEED)


@pytest.fixture
def nocloud():
    folder = load_recipe(REPOSITORY / "images/debian-12")
    return nocloud_files(SEED, folder.recipe, folder.files)


def test_a_cloud_image_gets_the_same_identity(nocloud):
    user = yaml.safe_load(nocloud["user-data"])
    assert nocloud["user-data"].startswith(b"#cloud-config\n")
    assert user["ssh_keys"]["ed25519_private"] == SEED.host_key.decode()
    assert user["users"][0] == {
        "name": "root",
        "lock_passwd": False,
        "ssh_authorized_keys": ["ssh-ed25519 BBBB me"],
    }
    assert "/etc/systemd/system/testbed-sidecar@.service" in [f["path"] for f in user["write_files"]]
    assert "/etc/fstab" not in [f["path"] for f in user["write_files"]]
    assert yaml.safe_load(nocloud["meta-data"])["local-hostname"] == "app-1"


def test_a_cloud_image_finds_its_nics_by_mac(nocloud):
    nics = yaml.safe_load(nocloud["network-config"])["ethernets"]
    assert nics["eth0"]["match"] == {"macaddress": "52:54:0a:4d:00:0c"}
    assert nics["eth0"]["routes"] == [{"to": "0.0.0.0/0", "via": "10.77.0.1"}]
    assert nics["eth1"]["addresses"] == ["10.78.0.12/22"]


def test_nocloud_files_lie_at_the_root(nocloud):
    assert read(seed_iso(SEED, nocloud), "/meta-data") == nocloud["meta-data"]
