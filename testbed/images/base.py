"""Somebody else's disk as a node's base: a cloud image from an address, or a local file.

It boots with its own boot loader, and cloud-init takes what it needs from the seed disk (:mod:`.nocloud`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from testbed.errors import LabError, bad_input
from testbed.host.download import download
from testbed.images.build import Progress, building
from testbed.images.node import NodeImage
from testbed.model.inventory import Image
from testbed.model.proxy import content_hash


def base_image(image: Image, cache: Path, home: Path, progress: Progress = lambda stage: None) -> NodeImage:
    """The base that ``image`` names (``path`` is relative to ``home``).

    A download is resumed where an earlier one ended and kept in ``cache``; with ``sha256`` its content is checked
    once, when it is complete.  Raises :class:`BadInput` for a file that is no disk, :class:`LabError` for a
    download that fails or has another content.
    """
    if image.path is not None:
        path = (home / image.path).resolve()
        if not path.is_file():
            raise bad_input(str(path), "there is no such base image", "name an existing qcow2 or raw file")
        if image.sha256 is not None:
            _check(path, image.sha256)
        return _described(path, content_hash(str(path), str(path.stat().st_mtime_ns)))
    if image.url is None:
        raise bad_input("image", "neither url nor path is given", "give one of them")
    key = _key_of(image)
    target = _disk_of(image, cache).parent
    with building(target) as work:
        if work is not None:
            progress("download")
            # beside the temporary folder, so that it outlives an interrupted download
            part = target.with_name(f"{key}.part")
            download(image.url, part)
            if image.sha256 is not None:
                _check(part, image.sha256)
            part.rename(work / "disk")
    return _described(target / "disk", key)


def planned_base(image: Image, cache: Path, home: Path) -> NodeImage:
    """The base as it is, or will be once it is downloaded; until then its size (0) and format are not known."""
    if image.url is not None and not (disk := _disk_of(image, cache)).exists():
        return NodeImage(_key_of(image), disk, "qcow2", 0)
    return base_image(image, cache, home)


def _key_of(image: Image) -> str:
    return content_hash(image.url or "", image.sha256 or "")


def _disk_of(image: Image, cache: Path) -> Path:
    return cache / "bases" / _key_of(image) / "disk"


def _check(path: Path, wanted: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        if path.suffix == ".part":
            path.unlink()
        raise LabError(
            str(path), "check its content", f"SHA-256 is {found}, expected {wanted}", "check image.sha256"
        )


def _described(path: Path, key: str) -> NodeImage:
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] == b"QFI\xfb":
        # the qcow2 header: magic, version, backing file's offset and length, cluster bits, virtual size
        return NodeImage(key, path, "qcow2", int.from_bytes(head[24:32], "big"))
    kind: Literal["raw"] = "raw"
    if head[510:512] != b"\x55\xaa":
        raise bad_input(str(path), "neither a qcow2 image nor a disk with a partition table", "use a cloud image")
    return NodeImage(key, path, kind, path.stat().st_size)
