"""``constraints/artifacts.lock``: what each artifact was when it was first pulled.

One line an artifact, ``SHA256  SIZE  PATH``, sorted by path, so that a change shows as one line of a diff.  Sums
come from the same place as the files; the lock is what notices that both were changed since.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import Location, bad_input

_LINE = re.compile(r"^([0-9a-f]{64})  (\d+)  (\S+)$")
_HEAD = "# What each artifact was when it was first pulled: SHA-256, bytes, path. Keep it under version control.\n"


@dataclass(frozen=True)
class Pin:
    """Size in bytes, and SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class LockFile:
    """The pins in a file, which need not be there."""

    path: Path

    def pins(self) -> Mapping[str, Pin]:
        """Pins by the artifacts' paths.  Raises :class:`BadInput` naming the line that is none."""
        found = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line or line.startswith("#"):
                continue
            match = _LINE.match(line)
            if match is None:
                where = Location(str(self.path), number)
                raise bad_input(where, "expected SHA256, size and path, two spaces apart", "restore the file")
            found[match[3]] = Pin(int(match[2]), match[1])
        return found

    def add(self, pins: Mapping[str, Pin]) -> None:
        """Put ``pins`` to what is there; the file is replaced whole."""
        merged = {**self.pins(), **pins}
        text = _HEAD + "".join(f"{merged[p].sha256}  {merged[p].size}  {p}\n" for p in sorted(merged))
        if self.path.exists() and self.path.read_text() == text:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text(text)
        part.rename(self.path)
