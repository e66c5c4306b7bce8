"""The shared disk: what all nodes have in common, mounted read-only at ``/opt/testbed`` by each of them.

Envoy, the sample services and the guest tools come to a node this way, at the speed of a disk, not over SSH.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from testbed.errors import LabError
from testbed.images.build import building, require, system_environment
from testbed.images.recipe import tree
from testbed.images.unpacked import VERSION
from testbed.model.proxy import content_hash

_SPARE = 8 * 1024 * 1024
_SPARE_INODES = 64
_NONE: Mapping[str, Path] = MappingProxyType({})


def shared_key(envoy: Path, folder: Path, releases: Mapping[str, Path] = _NONE) -> str:
    """The content hash that names a shared disk.  An artifact never changes under its (versioned) path.

    ``releases``: path on the disk -> file, below the folder of its version.
    """
    parts: list[str | bytes] = ["3", envoy.parent.name]
    if releases:
        parts.append(VERSION)
    for place, source in sorted(releases.items()):
        parts += [place, source.parent.name]
    for file in tree(folder):
        parts += [file.path, str(file.executable), file.content]
    return content_hash(*parts)


def build_shared(
    envoy: Path,
    folder: Path,
    cache: Path,
    releases: Mapping[str, Path] = _NONE,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """The disk (raw ext4) with ``bin/envoy``, everything below ``folder`` (``images/shared``), and ``releases``;
    packages among these are unpacked, see :func:`unpacked_name`, and ``finish`` does the rest to the tree.

    A lab without releases has nothing to finish: what ``finish`` does is part of the key by its version only.
    """
    target = cache / "shared" / shared_key(envoy, folder, releases)
    with building(target) as work:
        if work is not None:
            require("mke2fs")
            with tempfile.TemporaryDirectory(dir=work) as temporary:
                top = Path(temporary)
                top.chmod(0o755)
                (top / "bin").mkdir()
                shutil.copyfile(envoy, top / "bin" / "envoy")
                (top / "bin" / "envoy").chmod(0o755)
                for file in tree(folder):
                    path = top / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(file.content)
                    path.chmod(0o755 if file.executable else 0o644)
                for place, source in releases.items():
                    path = top / place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if source.suffix == ".deb":
                        unpack_package(source, path.with_name(unpacked_name(path.name)))
                    else:
                        shutil.copy(source, path)  # with its mode
                if finish is not None:
                    finish(top)
                _make_disk(top, work / "disk.raw")
    return target / "disk.raw"


def unpacked_name(package: str) -> str:
    """The folder of a package's files, where the package would lie: ``istio-sidecar.deb`` -> ``sidecar``."""
    return package.removesuffix(".deb").rpartition("-")[2]


def unpack_package(package: Path, folder: Path) -> None:
    """A package's files, unpacked here once, and not by each emulated node.  Raises :class:`LabError`."""
    require("dpkg-deb")
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(package), str(folder)], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise LabError("shared disk", f"unpack {package.name}", done.stderr.strip() or f"status {done.returncode}")


def _make_disk(top: Path, disk: Path) -> None:
    sizes = [path.lstat().st_size for path in top.rglob("*")]
    inodes = len(sizes) + _SPARE_INODES
    kilobytes = ((sum(sizes) + 4096 * len(sizes) + 256 * inodes) * 102 // 100 + _SPARE) // 1024
    # no journal: nobody writes; owner root whoever builds it
    argv = ["mke2fs", "-q", "-t", "ext4", "-L", "testbed", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0"]
    argv += ["-N", str(inodes)]
    done = subprocess.run(
        [*argv, "-d", str(top), str(disk), f"{kilobytes}k"],
        check=False,
        capture_output=True,
        text=True,
        env=system_environment(),
    )
    if done.returncode != 0:
        raise LabError("shared disk", "build", done.stderr.strip() or f"mke2fs status {done.returncode}")
