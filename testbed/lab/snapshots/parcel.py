"""A snapshot as one file, to hand on: a tar archive under zstd, whose frame carries a checksum of its own.

What comes out has to match the checksums in its manifest before it becomes a snapshot.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import zstandard
from pydantic import ValidationError

from testbed.errors import LabError, bad_input
from testbed.lab.snapshots.store import MANIFEST, Snapshot, SnapshotStore, checksums
from testbed.model.snapshot import FORMAT, Manifest

_LEVEL = 3
"""zstd's default: a higher one takes several times as long for some percent."""


def export(snapshot: Snapshot, file: Path) -> int:
    """Write the snapshot to ``file``, by rename, readable by its owner only (keys are in it); its size in bytes.

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
        part.rename(file)
    except OSError as e:
        raise LabError(str(file), "export to it", e.strerror or str(e), "see that the disk has room") from None
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


def import_(store: SnapshotStore, file: Path, name: str = "") -> Snapshot:
    """Make a snapshot of what :func:`export` wrote, under its own name or ``name``.

    Raises BadInput when ``file`` is no export, is cut short or damaged, or is of another lab; nothing stays then.
    """
    try:
        with file.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as plain:
            return _unpack(store, tarfile.open(fileobj=plain, mode="r|"), file, name)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as e:
        raise bad_input(str(file), f"is no whole export of a snapshot: {e}", "export it again") from None
    except OSError as e:
        raise bad_input(str(file), f"cannot be read: {e.strerror or e}") from None


def _unpack(store: SnapshotStore, tar: tarfile.TarFile, file: Path, name: str) -> Snapshot:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
    try:
        manifest = Manifest.model_validate_json(content.read() if content else b"")
    except ValidationError:
        raise bad_input(str(file), "is no export of a snapshot", "testbed snapshot export writes one") from None
    if manifest.format != FORMAT:
        raise bad_input(str(file), f"its format is {manifest.format}, this version reads {FORMAT}")
    if manifest.lab != store.lab:
        raise bad_input(str(file), f"it is of the lab {manifest.lab}, not {store.lab}", f"give -i {manifest.lab}")
    manifest = manifest.model_copy(update={"name": name or manifest.name})
    if store.find(manifest.name) is not None:
        raise bad_input(manifest.name, "there is a snapshot of that name", "delete it first, or give another name")
    with store.saving(manifest.name, manifest.size) as (folder, complete):
        while (member := tar.next()) is not None:
            if member.name not in manifest.files or not member.isfile():
                raise bad_input(str(file), f"holds {member.name}, which its manifest doesn't name")
            tar.extract(member, folder, filter="data")
        missing = [n for n in manifest.files if not (folder / n).is_file()]
        if missing:
            raise bad_input(
                str(file), f"is no whole export of a snapshot: {missing[0]} is missing", "export it again"
            )
        if checksums(folder, manifest.files) != manifest.files:
            raise bad_input(str(file), "is damaged: a file in it is not what was saved", "export it again")
        return complete(manifest)
