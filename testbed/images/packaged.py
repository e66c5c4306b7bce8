"""The images that k3s brings along, without those of components that a lab doesn't run.

k3s's archive holds the images of all its packaged components, most of which a lab leaves out.  What stays is one
archive in docker's format, uncompressed, which :mod:`testbed.images.unpacked` brings onto the shared disk: that is
smaller, and made sooner, by what is left out.
"""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from testbed.errors import LabError
from testbed.images.build import building
from testbed.model.proxy import content_hash

COMPONENT_IMAGES = {
    "traefik": ("mirrored-library-traefik", "klipper-helm"),
    "servicelb": ("klipper-lb",),
    "metrics-server": ("mirrored-metrics-server",),
    "local-storage": ("local-path-provisioner", "mirrored-library-busybox"),
}
"""Packaged component -> last parts of the names of the images that nothing else uses (k3s's ``image-list.txt``)."""

_VERSION = "1"
"""Part of every key: raise it when this file makes something else of the same archive."""

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PackagedImages:
    """What a lab with these ``components`` needs of k3s's ``source``; ``archive`` is where it lies once made."""

    source: Path
    archive: Path
    components: frozenset[str]


def planned_packaged(source: Path, components: Collection[str], cache: Path) -> PackagedImages:
    """``source`` is ``k3s-airgap-images-*.tar.zst`` in a folder named after its version, which it is known by."""
    key = content_hash(_VERSION, source.parent.name, *sorted(components))
    return PackagedImages(source, cache / "k3s-images" / key / "images.tar", frozenset(components))


def packaged_images(wanted: PackagedImages) -> Path:
    """The archive, made unless it is there.  Raises :class:`LabError` when the release's can't be read.

    One in another format than docker's is taken over whole: what stays must be what k3s knows how to import.
    """
    left_out = {
        name
        for component, names in COMPONENT_IMAGES.items()
        for name in names
        if component not in wanted.components
    }
    with building(wanted.archive.parent) as work:
        if work is not None:
            try:
                _pick(wanted.source, work / wanted.archive.name, left_out)
            except (OSError, tarfile.TarError, zstandard.ZstdError, ValueError, KeyError, TypeError) as e:
                cause = str(e) or type(e).__name__
                raise LabError(wanted.source.name, "pick its images", cause, "testbed artifacts verify") from None
    return wanted.archive


def _pick(source: Path, target: Path, left_out: Collection[str]) -> None:
    links, manifest = _look(source)
    if manifest is None:
        with _plain(source) as stream, target.open("wb") as file:
            while chunk := stream.read(1 << 22):
                file.write(chunk)
        return
    kept = [entry for image in manifest if (entry := _without(image, left_out)) is not None]
    wanted = _files(kept, links)
    with _members(source) as tar, tarfile.open(target, "w") as made:
        for member in tar:
            if posixpath.normpath(member.name) in wanted:
                made.addfile(member, tar.extractfile(member) if member.isreg() else None)
        text = json.dumps(kept).encode()
        header = tarfile.TarInfo(_MANIFEST)
        header.size = len(text)
        made.addfile(header, io.BytesIO(text))


def _look(source: Path) -> tuple[dict[str, str], list[dict[str, Any]] | None]:
    """Where its links lead, and docker's manifest, which is None when it has none."""
    links: dict[str, str] = {}
    manifest = None
    with _members(source) as tar:
        for member in tar:
            name = posixpath.normpath(member.name)
            if member.issym():
                links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            elif member.islnk():
                links[name] = posixpath.normpath(member.linkname)
            elif name == _MANIFEST and (content := tar.extractfile(member)) is not None:
                manifest = json.load(content)
    return links, manifest


def _without(image: dict[str, Any], left_out: Collection[str]) -> dict[str, Any] | None:
    """The image under the names that stay; None when none does.  One without any name stays."""
    names = image.get("RepoTags") or []
    stay = [name for name in names if _last_part(name) not in left_out]
    return None if names and not stay else {**image, "RepoTags": stay or image.get("RepoTags")}


def _last_part(reference: str) -> str:
    return reference.rpartition("/")[2].partition("@")[0].partition(":")[0]


def _files(images: list[dict[str, Any]], links: dict[str, str]) -> set[str]:
    """All that the images consist of: their configurations and layers, through links (layers that images share)."""
    found: set[str] = set()
    ahead = [name for image in images for name in (image["Config"], *image["Layers"])]
    while ahead:
        name = posixpath.normpath(ahead.pop())
        if name not in found:
            found.add(name)
            ahead += [links[name]] if name in links else []
    return found


@contextmanager
def _plain(source: Path) -> Iterator[Any]:
    with (
        source.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
    ):
        yield stream


@contextmanager
def _members(source: Path) -> Iterator[tarfile.TarFile]:
    with _plain(source) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar
