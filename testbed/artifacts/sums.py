"""SHA-256 of files, and the files of sums that projects publish beside their releases."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from testbed.artifacts.lockfile import Pin
from testbed.errors import bad_input

_LINE = re.compile(r"^([0-9a-fA-F]{64})(?:\s+\*?(\S+))?$")


def pin_of(path: Path) -> Pin:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return Pin(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def sum_for(name: str, text: str, file: str) -> str:
    """The sum of ``name`` in what ``sha256sum`` wrote; names may have folders before them.

    Istio's files hold one line for one file; k3s's hold all of a release.  Raises :class:`BadInput` when ``text``
    (of ``file``, for the message) has none for it: an error page, for instance.
    """
    sums = [(match[1].lower(), match[2]) for line in text.splitlines() if (match := _LINE.match(line.strip()))]
    for digest, stated in sums:
        if stated is not None and stated.rpartition("/")[2] == name:
            return digest
    if len(sums) == 1 and sums[0][1] is None:
        return sums[0][0]
    raise bad_input(file, f"has no SHA-256 sum for {name}", "check that it is the release's own file of sums")
