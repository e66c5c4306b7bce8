"""What a unit's journal has to say, in one line: k3s writes dozens, and the last one is seldom the one that tells.

Pure.  k3s's own lines are logrus' (``time="..." level=error msg="..."``), those of the Kubernetes programs in it
are klog's (``E1129 23:01:02.345678    1234 file.go:12] ...``), with the severity as the first letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LINES = 60
"""So many of the last lines are looked at."""

_LOGRUS = re.compile(r'^time="[^"]*" level=(?P<level>\w+) msg="(?P<text>(?:[^"\\]|\\.)*)"(?P<rest>.*)$')
_KLOG = re.compile(r"^(?P<level>[IWEF])\d{4} [\d:.]+ +\d+ [^ \]]+\] (?P<text>.*)$")
_TROUBLE = {"error", "fatal", "panic", "E", "F"}
_MOST = 300
"""Characters of a line."""


def telling_lines(lines: Sequence[str]) -> str:
    """The last line, and before it the last one that speaks of an error when that is another; empty without any."""
    read = [(level, text) for line in lines if line.strip() for level, text in [_read(line.strip())]]
    if not read:
        return ""
    last = read[-1][1]
    trouble = next((text for level, text in reversed(read) if level in _TROUBLE), last)
    return last if trouble == last else f"error: {trouble} | last: {last}"


def _read(line: str) -> tuple[str, str]:
    """(level, text), the level empty where a line has none."""
    match = _LOGRUS.match(line) or _KLOG.match(line)
    if match is None:
        return "", _short(line)
    return match["level"], _short(re.sub(r"\\(.)", r"\1", match["text"]))


def _short(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
