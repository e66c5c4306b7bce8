"""A snapshot as one file, to hand on: a tar archive under zstd, whose frame carries a checksum of its own.

With it goes what its machines only read, the image below their disks and the shared disk: built anew from the same
recipe these have other blocks.  What comes out has to match the checksums in its manifest before it becomes one.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard
from pydantic import ValidationError

from testbed.errors import LabError, bad_input
from testbed.images.build import building
from testbed.images.node import NodeImage
from testbed.lab.snapshots.saving import backing_file
from testbed.lab.snapshots.store import MANIFEST, Snapshot, SnapshotStore, checksums
from testbed.model.snapshot import FORMAT, Manifest

_LEVEL = 3
"""zstd's default: a higher one takes several times as long for some percent."""
_MEDIA = "media"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Media:
    """What machines only read, in this host's cache; a folder that isn't there yet is where an import lays it."""

    image: NodeImage
    shared: Path

    def folders(self) -> Iterator[tuple[str, Path]]:
        """(name in a parcel, folder)."""
        yield f"{_MEDIA}/image", self.image.disk.parent
        yield f"{_MEDIA}/shared", self.shared.parent

    def files(self) -> Iterator[tuple[str, Path]]:
        """(name in a parcel, file)."""
        for name, folder in self.folders():
            yield from ((f"{name}/{file.name}", file) for file in sorted(folder.iterdir()) if file.is_file())


def export(snapshot: Snapshot, media: Media | None, file: Path) -> int:
    """Write the snapshot to ``file``, by rename, readable by its owner only (keys are in it); its size in bytes.
    Without ``media`` it is of use only where the very same image and shared disk are.

    Raises Damaged, and LabError when the disk is full.
    """
    snapshot.check()
    part = file.with_name(f".{file.name}.{os.getpid()}")
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1, write_checksum=True)
    try:
        with (
            os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out,
            compressor.stream_writer(out, closefd=False) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in (MANIFEST, *snapshot.manifest.files):  # the manifest first: what it says can be read early
                tar.add(snapshot.folder / name, name, recursive=False)
            for name, source in media.files() if media else ():
                tar.add(source, name, recursive=False)
        part.rename(file)
    except OSError as e:
        raise LabError(str(file), "export to it", e.strerror or str(e), "see that the disk has room") from None
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


def import_(
    store: SnapshotStore,
    file: Path,
    media: Media,
    name: str = "",
    check: Callable[[Manifest], None] = lambda _: None,
) -> Snapshot:
    """Make a snapshot of what :func:`export` wrote, under its own name or ``name``; ``check`` may refuse it.  What
    its machines read goes to the cache where it has nothing of the kind.

    Raises BadInput when ``file`` is no export, is cut short or damaged, or is of another lab; nothing stays then.
    """
    try:
        with file.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as plain:
            tar = tarfile.open(fileobj=plain, mode="r|")  # noqa: SIM115  (of a stream: nothing to close)
            manifest = _manifest(tar, store, file, name)
            check(manifest)
            with store.saving(manifest.name, manifest.size) as (folder, complete):
                _unpack(tar, manifest, folder, file)
                _install(folder / _MEDIA, media)
                return complete(_lay(folder, manifest, media.image))
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as e:
        raise bad_input(str(file), f"is no whole export of a snapshot: {e}", "export it again") from None
    except OSError as e:
        raise bad_input(str(file), f"cannot be read: {e.strerror or e}") from None


def _manifest(tar: tarfile.TarFile, store: SnapshotStore, file: Path, name: str) -> Manifest:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
    try:
        manifest = Manifest.model_validate_json(content.read() if content else b"")
    except ValidationError:
        raise bad_input(
            str(file), f"is no export of a snapshot of format {FORMAT}", "testbed snapshot export writes one"
        ) from None
    if manifest.format != FORMAT:
        raise bad_input(str(file), f"its format is {manifest.format}, this version reads {FORMAT}")
    if manifest.lab != store.lab:
        raise bad_input(str(file), f"it is of the lab {manifest.lab}, not {store.lab}", f"give -i {manifest.lab}")
    manifest = manifest.model_copy(update={"name": name or manifest.name})
    if store.find(manifest.name) is not None:
        raise bad_input(manifest.name, "there is a snapshot of that name", "delete it first, or give another name")
    return manifest


def _unpack(tar: tarfile.TarFile, manifest: Manifest, folder: Path, file: Path) -> None:
    while (member := tar.next()) is not None:
        if member.name.startswith(f"{_MEDIA}/") and member.isfile() and member.name.count("/") == 2:
            content = tar.extractfile(member)
            assert content is not None  # noqa: S101  (it is a file)
            _write_sparse(content, folder / _MEDIA / Path(member.name).relative_to(_MEDIA))
            continue
        shared = member.islnk() and member.linkname in manifest.files  # layers that clones have in common
        if member.name not in manifest.files or not (member.isfile() or shared):
            raise bad_input(str(file), f"holds {member.name}, which its manifest doesn't name")
        tar.extract(member, folder, filter="data")
    missing = [n for n in manifest.files if not (folder / n).is_file()]
    if missing:
        raise bad_input(str(file), f"is no whole export of a snapshot: {missing[0]} is missing", "export it again")
    if checksums(folder, manifest.files) != manifest.files:
        raise bad_input(str(file), "is damaged: a file in it is not what was saved", "export it again")


def _write_sparse(content: IO[bytes], target: Path) -> None:
    """Most of an image is zeros, which become holes again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    zeros = bytes(_BLOCK)
    with target.open("wb") as out:
        while block := content.read(_BLOCK):
            if zeros.startswith(block):
                out.seek(len(block), os.SEEK_CUR)
            else:
                out.write(block)
        out.truncate()


def _install(unpacked: Path, media: Media) -> None:
    """Move to the cache what it has not."""
    for name, target in media.folders():
        source = unpacked.parent / name
        if not source.is_dir():
            continue
        with building(target) as work:
            if work is not None:
                for file in source.iterdir():
                    _move(file, work / file.name)
    shutil.rmtree(unpacked, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        with source.open("rb") as content:
            _write_sparse(content, target)


def _lay(folder: Path, manifest: Manifest, image: NodeImage) -> Manifest:
    """Let the lowest layer of each disk name the image where it lies on this host."""
    lowest_layers = sorted({layers[0] for layers in manifest.disks.values()})
    changed = False
    for lowest in lowest_layers:
        if backing_file(folder / lowest) != str(image.disk):
            argv = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", image.format, "-b", str(image.disk)]
            done = subprocess.run([*argv, str(folder / lowest)], stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                raise LabError(lowest, "lay it on the image", done.stderr.strip(), "export it again")
            changed = True  # and with it what shares that file
    files = {**manifest.files, **checksums(folder, lowest_layers if changed else ())}
    return manifest.model_copy(update={"files": files})
