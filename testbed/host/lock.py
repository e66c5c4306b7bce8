"""One lock per lab: commands that change a lab take it, and say who has it when they can't.

It is an flock(2), so the kernel gives it up when its holder dies, however that happens.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from testbed.errors import LabBusy, WaitTimeout
from testbed.host.directories import LabDirectories
from testbed.waiting import NotYet, wait_until


@dataclass(frozen=True)
class Holder:
    """Who holds a lab's lock.  ``since`` is in seconds since the epoch."""

    pid: int
    command: str
    since: float

    def __str__(self) -> str:
        return f"`{self.command}` (pid {self.pid}) has held it for {max(0, time.time() - self.since):.0f} s"


def holder(directories: LabDirectories) -> Holder | None:
    """Who holds the lock right now; None if it is free."""
    try:
        with directories.lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except FileNotFoundError:
        pass
    return None


@contextmanager
def hold(
    directories: LabDirectories, command: str = "", *, limit: float = 60, cancel: threading.Event | None = None
) -> Iterator[None]:
    """Hold the lab's lock.  Waits up to ``limit`` seconds, then raises LabBusy naming who has it.

    ``cancel`` calls off the wait, with :class:`~testbed.waiting.Cancelled`.

    The file is deleted on release.  Not reentrant: a second ``hold`` in the same process waits like any other.
    """
    name = f"lab {directories.lab_id}"
    command = command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    try:
        take = partial(_take, directories.lock)
        file = wait_until(f"{name}: lock", take, limit=limit, interval=0.1, cancel=cancel)
    except WaitTimeout as e:
        who = str(holder(directories) or e.last_seen)
        raise LabBusy(
            name, f"waited {limit:g} s for its lock", who, "let it finish, or end it, and try again"
        ) from None
    with file:
        file.write(json.dumps(asdict(Holder(os.getpid(), command, time.time()))).encode())
        file.flush()
        try:
            yield
        finally:
            directories.lock.unlink(missing_ok=True)  # while it is held: whoever waits sees that it is gone
            directories.remove_empty_parents()


def _take(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("ab+")
    except (FileNotFoundError, FileExistsError):  # the folder goes meanwhile: its last lab was removed
        raise NotYet("the lock's folder is being removed") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise NotYet("the lock is changing hands")
    except BlockingIOError:
        seen = str(_read(file) or "another command")
        file.close()
        raise NotYet(seen) from None
    except (FileNotFoundError, NotYet):
        file.close()
        raise NotYet("the lock is changing hands") from None
    file.truncate(0)
    return file


def _read(file: BinaryIO) -> Holder | None:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):  # its holder has not written yet
        return None
