"""Where artifacts come from: a mirror (a folder or an address), else the projects' own release addresses."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from testbed.artifacts.catalogue import Artifact
from testbed.artifacts.registry import copy_image
from testbed.errors import LabError, bad_input
from testbed.host.download import NotFound, OnBytes, download, read_small


class Source(Protocol):
    """A place to fetch from.  What it does not have is :class:`~testbed.host.download.NotFound`."""

    @property
    def name(self) -> str:
        """As people know it."""
        ...

    def sums(self, artifact: Artifact) -> str:
        """The text of its file of sums; empty when this source vouches for it otherwise (images)."""
        ...

    def fetch(self, artifact: Artifact, part: Path, on_bytes: OnBytes) -> None:
        """Bring it into ``part``, going on after what is there."""
        ...


@dataclass(frozen=True)
class MirrorFolder:
    """A folder as ``testbed artifacts mirror`` writes it."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def sums(self, artifact: Artifact) -> str:
        """The sums that lie beside it."""
        return self._there(artifact.sums_path).read_text(errors="replace")

    def fetch(self, artifact: Artifact, part: Path, on_bytes: OnBytes) -> None:
        """Copy it."""
        path = self._there(artifact.path)
        try:
            shutil.copyfile(path, part)
        except OSError as e:
            raise LabError(str(path), "copy from the mirror", e.strerror or str(e)) from None
        on_bytes(part.stat().st_size, part.stat().st_size)

    def _there(self, relative: str) -> Path:
        path = self.folder / relative
        if not path.is_file():
            raise NotFound(str(path), "take from the mirror", "there is no such file", "check TESTBED_MIRROR")
        return path


@dataclass(frozen=True)
class MirrorAddress:
    """The same folder behind a web server."""

    address: str

    @property
    def name(self) -> str:
        """The address."""
        return self.address

    def sums(self, artifact: Artifact) -> str:
        """The sums that lie beside it."""
        return read_small(self._url(artifact.sums_path))

    def fetch(self, artifact: Artifact, part: Path, on_bytes: OnBytes) -> None:
        """Download it."""
        download(self._url(artifact.path), part, on_bytes)

    def _url(self, relative: str) -> str:
        return f"{self.address.rstrip('/')}/{quote(relative)}"


@dataclass(frozen=True)
class Releases:
    """The projects' own release addresses, and the registries of their images."""

    name: str = "the project's release address"

    def sums(self, artifact: Artifact) -> str:
        """The project's own sums."""
        return read_small(artifact.sums_address) if artifact.sums_address else ""

    def fetch(self, artifact: Artifact, part: Path, on_bytes: OnBytes) -> None:
        """Download it, or copy it from its registry."""
        if artifact.is_image:
            copy_image(artifact.address, part, _public_keys(artifact))
            on_bytes(part.stat().st_size, part.stat().st_size)
        else:
            download(artifact.address, part, on_bytes)


def _public_keys(artifact: Artifact) -> tuple[str, ...]:
    """Those of its project's keys that are published: older releases are signed with an older one."""
    found = []
    for address in artifact.keys:
        with suppress(NotFound):
            found.append(_public_key(address))
    if artifact.keys and not found:
        raise LabError(
            artifact.address, "find its project's keys", f"none at {' or '.join(artifact.keys)}",
            "check constraints/releases.yaml, or use a mirror (TESTBED_MIRROR)",
        )  # fmt: skip
    return tuple(found)


@cache
def _public_key(address: str) -> str:
    """Asked for once, however many images a pull brings; one that is not there is asked for again."""
    return read_small(address)


MIRROR_VARIABLE = "TESTBED_MIRROR"
"""The environment variable that names a mirror: a folder or an address."""


def mirror_of_environment() -> str:
    """The mirror that the environment names; empty: none."""
    return os.environ.get(MIRROR_VARIABLE, "")


def sources(mirror: str) -> tuple[Source, ...]:
    """In the order in which they are asked.  ``mirror`` is a folder or an address; empty: none."""
    if not mirror:
        return (Releases(),)
    if mirror.startswith(("http://", "https://")):
        return (MirrorAddress(mirror), Releases())
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise bad_input(mirror, "there is no such mirror folder", "name a folder or an address in TESTBED_MIRROR")
    return (MirrorFolder(folder), Releases())
