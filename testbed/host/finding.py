"""What a probe of the host found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: OK, works but not well, does not work."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One line of ``testbed doctor``."""

    name: str
    level: Level
    detail: str
    why: str
    """Why it matters."""
    mend: str = ""
    """What the reader can do, as a command where there is one."""
    fix: tuple[str, ...] | None = None
    """The command that ``--fix`` runs.  All of them need root."""
    package: str = ""
    """The Debian package that mends it; ``--fix`` installs all of those at once."""
