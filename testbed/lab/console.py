"""A node's serial console, kept in a file."""

from __future__ import annotations

import re
from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1f]")
_TAIL_BYTES = 8192


def console_tail(file: Path, lines: int = 3) -> str:
    """The last non-empty lines, joined by `` | ``; empty when there is nothing."""
    try:
        with file.open("rb") as console:
            console.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            text = console.read().decode(errors="replace")
    except OSError:
        return ""
    clean = (_ESCAPES.sub("", line).strip() for line in text.splitlines())
    return " | ".join([line for line in clean if line][-lines:])
