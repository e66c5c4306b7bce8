"""Random secrets that are made once and kept in a file that only its owner reads."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def join_token(path: Path) -> str:
    """The lab's secret for joining its cluster: 256 random bits in hexadecimal, the same at each call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    if not path.exists():
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # somebody else was quicker: theirs counts
            path.hardlink_to(part)
        part.unlink()
    return path.read_text()
