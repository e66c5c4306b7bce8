"""Where snapshots lie: a folder each, complete or not there at all.

A snapshot is written to a hidden folder and renamed when its manifest, with every file's checksum, is in it.  What
a killed save leaves is such a hidden folder, which nothing ever reads and the lab's next save deletes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash
from pydantic import ValidationError

from testbed.errors import LabError, bad_input
from testbed.host.directories import cache_root, state_root
from testbed.model.snapshot import FORMAT, Manifest, SnapshotFile

MANIFEST = "manifest.json"
_CHUNK = 1 << 22
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Damaged(LabError):
    """A snapshot is not what was saved.  Nothing has been done when this is raised."""

    def __init__(self, snapshot: Snapshot, cause: str) -> None:
        name = snapshot.manifest.name
        super().__init__(f"snapshot {name}", "read it", f"damaged: {cause}", "delete it and save another")
        self.snapshot = snapshot


class InUse(LabError):
    """A snapshot that is being read is not deleted."""

    def __init__(self, snapshot: Snapshot) -> None:
        name = snapshot.manifest.name
        super().__init__(f"snapshot {name}", "delete it", "a lab is being started from it", "try again later")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that is there."""

    folder: Path
    manifest: Manifest

    @property
    def used(self) -> float:
        """When it was saved or restored last, in seconds since the epoch."""
        return (self.folder / MANIFEST).stat().st_mtime

    @property
    def bytes_on_disk(self) -> int:
        """What its files take, holes and files shared with others left out."""
        stats = [p.stat() for p in self.folder.rglob("*") if p.is_file()]
        return sum(s.st_blocks * 512 // s.st_nlink for s in stats)

    @contextmanager
    def used_now(self) -> Iterator[None]:
        """It counts as used now, and nobody deletes it within the block.

        Raises :class:`Damaged` when somebody has deleted it just before.
        """
        try:
            file = (self.folder / MANIFEST).open("rb")
        except FileNotFoundError:
            raise Damaged(self, "it was deleted meanwhile") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            try:
                os.utime(self.folder / MANIFEST)
            except FileNotFoundError:
                raise Damaged(self, "it was deleted meanwhile") from None
            yield

    def check(self) -> None:
        """Compare every file with its checksum.  Raises :class:`Damaged` naming the first that differs."""
        self._sizes()
        found = checksums(self.folder, self.manifest.files)
        for name, file in self.manifest.files.items():
            if found[name] != file:
                raise Damaged(self, f"{name} is not what was saved")

    def _sizes(self) -> None:
        for name, file in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                raise Damaged(self, f"{name} is missing")
            if (size := path.stat().st_size) != file.size:
                raise Damaged(self, f"{name} has {size} bytes of {file.size}")


class SnapshotStore:
    """A folder of snapshots."""

    def __init__(self, root: Path, lab: str) -> None:
        """``lab`` marks what an interrupted save of this lab leaves; its lock is held while anything is saved."""
        self.root = root
        self.lab = lab

    def all(self) -> list[Snapshot]:
        """Every snapshot of this format, the last used one first."""
        folders = [p for p in self.root.iterdir() if p.name[0] != "."] if self.root.is_dir() else []
        found = [s for p in folders if (s := _open(p)) is not None]
        return sorted(found, key=lambda s: -s.used)

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise bad_input(name, "is no name for a snapshot", "letters, digits, dots and dashes, 64 at most")
        return self.root / name

    def find(self, name: str) -> Snapshot | None:
        """The snapshot of that name, if there is one that can be read."""
        return _open(self._folder(name))

    def get(self, name: str) -> Snapshot:
        """The snapshot of that name.  Raises BadInput with the names there are."""
        found = self.find(name)
        if found is None:
            names = ", ".join(sorted(s.manifest.name for s in self.all())) or "none"
            raise bad_input(name, "the lab has no such snapshot", f"there are: {names}")
        return found

    @contextmanager
    def saving(self, name: str, needed: int) -> Iterator[tuple[Path, Callable[[Manifest], Snapshot]]]:
        """A folder to write into, and what makes a snapshot of it; without that call nothing stays.

        ``needed`` is how many bytes have to be free.  An older snapshot of the name goes as the new one comes.
        """
        target = self._folder(name)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self.root / f".{self.lab}.part"
        shutil.rmtree(part, ignore_errors=True)
        require_space(self.root, needed, f"snapshot {name}")
        part.mkdir(mode=0o700)

        def complete(manifest: Manifest) -> Snapshot:
            (part / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            old = self.root / f".{self.lab}.old"
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            part.rename(target)
            shutil.rmtree(old, ignore_errors=True)
            return Snapshot(target, manifest)

        try:
            yield part, complete
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def delete(self, snapshot: Snapshot, *, in_use: bool = False) -> None:
        """Remove it.  Labs that were restored from it go on: they share its files, not its folder.

        Raises :class:`InUse` while somebody reads it, unless ``in_use``: one that is of no use to anybody.
        One that is gone already is no error.
        """
        going = self.root / f".{snapshot.folder.name}.gone"
        shutil.rmtree(going, ignore_errors=True)
        try:
            with (snapshot.folder / MANIFEST).open("rb") as file:
                if not in_use:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                snapshot.folder.rename(going)
        except BlockingIOError:
            raise InUse(snapshot) from None
        except FileNotFoundError:
            return
        shutil.rmtree(going, ignore_errors=True)

    def evict(self, limit: int) -> list[Snapshot]:
        """Delete the least recently used ones until the rest takes at most ``limit`` bytes; those that went."""
        return evict([self], limit)


def evict(stores: Iterable[SnapshotStore], limit: int) -> list[Snapshot]:
    """Delete the least recently used ones of all ``stores`` until the rest takes at most ``limit`` bytes."""
    total, gone = 0, []
    found = [(snapshot, store) for store in stores for snapshot in store.all()]
    for snapshot, home in sorted(found, key=lambda f: -f[0].used):
        total += snapshot.bytes_on_disk
        if total > limit:
            try:
                home.delete(snapshot)
            except InUse:
                continue
            gone.append(snapshot)
    return gone


def named_store(lab: str) -> SnapshotStore:
    """The snapshots that people gave names; they outlive the lab."""
    return SnapshotStore(state_root() / "snapshots" / lab, lab)


def cache_store(lab: str) -> SnapshotStore:
    """What `up` keeps of labs that it verified, of all labs together."""
    return SnapshotStore(cache_root() / "labs", lab)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, SnapshotFile]:
    """Size and checksum of each file, several read at a time."""
    wanted = list(names)
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(wanted, pool.map(lambda n: _checksum(folder / n), wanted), strict=True))


def _checksum(path: Path) -> SnapshotFile:
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return SnapshotFile(size=size, checksum=digest.hexdigest())


def data_checksum(path: Path) -> str:
    """The checksum of a sparse file's data with its places: holes, most of an image, are not read, and zeros are
    the same as a hole."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        size, end = path.stat().st_size, 0
        digest.update(size.to_bytes(8))
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left (lseek(2))
                break
            end = min(size, -os.lseek(file.fileno(), start, os.SEEK_HOLE) // _BLOCK * -_BLOCK)
            start -= start % _BLOCK
            file.seek(start)
            while start < end and (block := file.read(_BLOCK)):
                if not _ZEROS.startswith(block):
                    digest.update(start.to_bytes(8))
                    digest.update(block)
                start += len(block)
    return digest.hexdigest()


def require_space(folder: Path, needed: int, subject: str) -> None:
    """Raise LabError when the disk that ``folder`` is on has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LabError(
            subject,
            "make room for it",
            f"{folder} has {free / 2**20:.0f} MiB free, up to {needed / 2**20:.0f} MiB are needed",
            "free some: testbed cache prune, or testbed snapshot delete",
        )


def _open(folder: Path) -> Snapshot | None:
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return Snapshot(folder, manifest) if manifest.format == FORMAT else None
