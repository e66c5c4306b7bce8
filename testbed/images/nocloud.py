"""What cloud-init on a cloud image reads from the seed disk: the NoCloud data source, format version 1.

The base has to bring what our own image installs (python3, nftables, iproute2, openssh-server): a node has no
way to a package archive.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence

from testbed.images.recipe import Recipe, RecipeFile
from testbed.images.seed import MANAGEMENT_MAC, MESH_MAC, NodeSeed, mac_address

# The base's own: its disks differ from ours, and so may what its services need.
_LEFT_ALONE = ("etc/fstab", "etc/hosts", "etc/resolv.conf", "etc/modprobe.d/", "etc/systemd/system/systemd-udev")


def nocloud_files(seed: NodeSeed, recipe: Recipe, files: Sequence[RecipeFile]) -> Mapping[str, bytes]:
    """``user-data``, ``meta-data`` and ``network-config``, for the root of the seed disk."""
    written = [
        {
            "path": f"/{file.path}",
            "encoding": "gz+b64",
            "content": base64.b64encode(gzip.compress(file.content, mtime=0)).decode(),
            "permissions": "0755" if file.executable else "0644",
        }
        for file in files
        if not file.path.startswith(_LEFT_ALONE)
    ]
    commands = [["groupadd", "--system", "--gid", str(number), name] for name, number in recipe.users.items()]
    commands += [
        ["useradd", "--system", "--uid", str(number), "--gid", str(number), "-M", "-s", "/usr/sbin/nologin", name]
        for name, number in recipe.users.items()
    ]
    commands += [
        ["/usr/lib/testbed/seed", "/dev/disk/by-label/cidata"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "restart", "ssh.service"],
    ]
    user_data = {
        "disable_root": False,
        "ssh_deletekeys": False,
        "ssh_keys": {"ed25519_private": seed.host_key.decode(), "ed25519_public": seed.host_key_public.strip()},
        # locked, which is cloud-init's default, root could not log in by key either: sshd runs without PAM
        "users": [
            {
                "name": "root",
                "lock_passwd": False,
                "ssh_authorized_keys": [key.strip() for key in seed.authorized_keys],
            }
        ],
        "ntp": {"enabled": False},
        "package_update": False,
        "mounts": [["/dev/vdc", "/opt/testbed", "ext4", "ro,noatime", "0", "0"]],
        "write_files": written,
        "runcmd": commands,
    }
    gateway = seed.gateway or seed.management.network.network_address + 1
    network = {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": mac_address(MANAGEMENT_MAC, seed.management.ip)},
                "set-name": "eth0",
                "addresses": [str(seed.management)],
                "routes": [{"to": "0.0.0.0/0", "via": str(gateway)}],
            },
            "eth1": {
                "match": {"macaddress": mac_address(MESH_MAC, seed.mesh.ip)},
                "set-name": "eth1",
                "addresses": [str(seed.mesh)],
            },
        },
    }
    meta = {"instance-id": f"{seed.lab}-{seed.machine_id}", "local-hostname": seed.node}
    # JSON is YAML, and quotes whatever has to be quoted
    return {
        "user-data": b"#cloud-config\n" + json.dumps(user_data).encode() + b"\n",
        "meta-data": json.dumps(meta).encode() + b"\n",
        "network-config": json.dumps(network).encode() + b"\n",
    }
