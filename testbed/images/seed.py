"""The seed disk: what tells one node from another, on an ISO 9660 disk labelled ``cidata``.

Our image reads ``testbed/`` from it before systemd starts (see ``seed`` in the recipe's files); a cloud image
reads the NoCloud files beside it.  The host makes the keys, so it knows a node's host key before the first boot.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from types import MappingProxyType

MANAGEMENT_MAC = "52:54"
MESH_MAC = "52:56"
WORKLOAD_MAC = "52:58"
HOST_MAC = "52:5a"
"""Of the host's end of each network."""


def mac_address(prefix: str, address: IPv4Address) -> str:
    """A MAC that spells an IPv4 address: the prefix (two bytes, locally administered), then its four bytes."""
    return ":".join([prefix, *(f"{byte:02x}" for byte in address.packed)])


@dataclass(frozen=True)
class NodeSeed:
    """A node's identity.  Keys are in OpenSSH's formats (``host_key`` is the private one, unencrypted)."""

    lab: str
    node: str
    machine_id: str
    """32 hexadecimal digits."""
    host_key: bytes = field(repr=False)
    host_key_public: str
    authorized_keys: tuple[str, ...]
    management: IPv4Interface
    mesh: IPv4Interface
    gateway: IPv4Address | None = None
    """Default route; the management network's first address when left out."""
    entropy: bytes = field(default=b"", repr=False)
    """Random bytes for a machine that starts from another one's memory."""

    @property
    def files(self) -> dict[str, bytes]:
        """The contents of ``testbed/`` on the disk."""
        gateway = self.gateway or self.management.network.network_address + 1
        network = (
            f"MANAGEMENT_PREFIX={self.management.network.prefixlen}\n"
            f"MESH_PREFIX={self.mesh.network.prefixlen}\n"
            f"MANAGEMENT_GATEWAY={gateway}\n"
        )
        identity = {
            "lab": self.lab,
            "node": self.node,
            "management": str(self.management),
            "mesh": str(self.mesh),
        }
        return {
            "authorized_keys": "".join(f"{key.strip()}\n" for key in self.authorized_keys).encode(),
            "entropy": self.entropy,
            "host_key": self.host_key,
            "host_key.pub": f"{self.host_key_public.strip()}\n".encode(),
            "hostname": f"{self.node}\n".encode(),
            "machine-id": f"{self.machine_id}\n".encode(),
            "network": network.encode(),
            "node.json": (json.dumps(identity, indent=2) + "\n").encode(),
        }


def seed_iso(seed: NodeSeed, nocloud: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """The seed disk's bytes, with ``nocloud``'s files for a cloud image.  It holds a private key."""
    return _iso({**{f"testbed/{name}": content for name, content in seed.files.items()}, **nocloud})


def write_seed(seed: NodeSeed, path: Path, nocloud: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Write the seed disk, readable by its owner only, by rename."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed_iso(seed, nocloud))
    temporary.replace(path)


def _iso(files: dict[str, bytes]) -> bytes:
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for number, folder in enumerate(sorted({path.split("/")[0] for path in files if "/" in path})):
        iso.add_directory(f"/D{number}", rr_name=folder, joliet_path=f"/{folder}")
        members = {path.split("/")[1]: content for path, content in files.items() if path.startswith(f"{folder}/")}
        for index, (name, content) in enumerate(sorted(members.items())):
            _add(iso, f"/D{number}/F{index}.;1", f"/{folder}/{name}", content)
    for index, (name, content) in enumerate(sorted((n, c) for n, c in files.items() if "/" not in n)):
        _add(iso, f"/F{index}.;1", f"/{name}", content)
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()


def _add(iso: object, path: str, joliet: str, content: bytes) -> None:
    name = joliet.rsplit("/", 1)[1]
    iso.add_fp(io.BytesIO(content), len(content), path, rr_name=name, joliet_path=joliet)  # type: ignore[attr-defined]
