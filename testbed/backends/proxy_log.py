"""Envoy's own log: lines that begin with ``[2026-05-01 12:00:00.000]``, and what follows such a line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_STAMP = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})\]")


def since(log: str, start: datetime | None) -> str:
    """The part of ``log`` from ``start`` (timezone-aware) on; Envoy writes its node's time, which is UTC."""
    if start is None:
        return log
    lines = log.splitlines(keepends=True)
    for number, line in enumerate(lines):
        stamp = _STAMP.match(line)
        if stamp and datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC) >= start:
            return "".join(lines[number:])
    return ""
