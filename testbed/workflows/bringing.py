"""Releases onto machines that were made with others, while what runs there goes on."""

from __future__ import annotations

import io
import tarfile
import tempfile
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from testbed.artifacts import Releases, releases_of
from testbed.deploy.bringing import BEGIN, FINISH, RECEIVE, UNANSWERED, UNPACK, files_for, place_of
from testbed.deploy.k3s import BROUGHT
from testbed.errors import LabError
from testbed.guests import NodeConnection
from testbed.images.packaged import packaged_images
from testbed.images.shared import unpack_package, unpacked_name
from testbed.lab.disks import Disks
from testbed.lab.lab import Lab
from testbed.model.inventory import Inventory
from testbed.waiting import NotYet, wait_until

SEND_LIMIT = 300.0
"""Seconds for one file to be on a node."""
FINISH_LIMIT = 900.0
"""Seconds for a node to unpack k3s, or images; an emulated one takes one to two minutes for each."""

_LIST = f"""
cd {BROUGHT} 2>/dev/null || exit 0
for found in */*; do
  case $found in *.new|*'*'*) ;; *) echo "$found" ;; esac
done
"""


def newer(inventory: Inventory, began: Releases | None) -> dict[str, frozenset[str]]:
    """Node -> the releases that it is to be brought: those of the inventory that its machine was not made with."""
    wanted = releases_of(inventory)
    k3s = {f"k3s/{wanted.k3s}"} if began and began.k3s != wanted.k3s else set()
    istio = {f"istio/{wanted.istio}"} if began and began.istio != wanted.istio else set()
    return {n.name: frozenset((k3s if n.cluster else set()) | istio) for n in inventory.nodes if k3s or istio}


def has_been_brought(connection: NodeConnection) -> frozenset[str]:
    """The releases that were brought to a node."""
    return frozenset(connection.run(["sh", "-c", _LIST], check=False).stdout.decode().split())


def bring(lab: Lab, name: str, releases: Iterable[str], cancel: threading.Event) -> None:
    """Send the files of ``releases`` to a node, and let it unpack them."""
    node = next(n for n in lab.inventory.nodes if n.name == name)
    disks = Disks.of(lab.inventory)
    if disks.packaged is not None:
        packaged_images(disks.packaged)
    connection = lab.connection(name)
    for release in releases:
        folder = place_of(release)
        connection.run(["sh", "-c", BEGIN, "-", folder])
        for file, source in files_for(node, release.partition("/")[0], disks.releases).items():
            if cancel.is_set():
                return
            _send(connection, source, f"{folder}.new/{file}")
        wait_until(
            f"{name} has unpacked {release}", partial(_finish, connection, folder),
            limit=FINISH_LIMIT, interval=2, cancel=cancel, next_step="see: testbed status",
        )  # fmt: skip


def _finish(connection: NodeConnection, folder: str) -> None:
    done = connection.run(["sh", "-c", FINISH, "-", folder], limit=FINISH_LIMIT, check=False)
    said = done.stderr.decode(errors="replace").strip()
    if done.status == UNANSWERED:
        raise NotYet(said.splitlines()[-1])
    if done.status:
        raise LabError(connection.node, f"unpack {folder}", said[-2000:] or f"exit status {done.status}")


def _send(connection: NodeConnection, source: Path, target: str) -> None:
    if source.suffix != ".deb":
        connection.run(["sh", "-c", RECEIVE, "-", target], stdin=source.read_bytes(), limit=SEND_LIMIT)
        return
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as files:
        unpack_package(source, Path(files))
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(files, arcname=".")
    folder = str(Path(target).with_name(unpacked_name(source.name)))
    connection.run(["sh", "-c", UNPACK, "-", folder], stdin=packed.getvalue(), limit=SEND_LIMIT)
