"""The errors that people see: one line ``subject: action: cause``, one line that says what to do next.

Exit codes (the command line's contract): 1 the lab or a scenario failed, 2 bad input, 3 inconclusive,
4 the host is not ready.  A traceback on a terminal is a bug; every error below ends as two lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Location:
    """Where in a file something stands.  ``line`` and ``column`` count from 1; 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0
    field: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}"
            if self.column:
                place += f":{self.column}"
        return f"{place}: {self.field}" if self.field else place


class TestbedError(Exception):
    """Base of every error that the command line prints.  ``next_step`` is an instruction to the reader."""

    exit_code = 1
    __test__ = False  # not a test case, whatever pytest thinks of the name

    def __init__(self, subject: str, action: str, cause: str, next_step: str = "") -> None:
        super().__init__(f"{subject}: {action}: {cause}")
        self.subject = subject
        self.action = action
        self.cause = cause
        self.next_step = next_step


class LabError(TestbedError):
    """Machine trouble: a node, the hypervisor or a connection did not do what was asked."""


class MeshError(TestbedError):
    """Mesh trouble: a proxy rejected or never took up what it was given."""


class MeshLate(MeshError):
    """A proxy said nothing against what it was given, and had not taken it up when the time was over."""


class WaitTimeout(LabError, TimeoutError):
    """A named wait ran out of time; ``last_seen`` is what its probe saw last."""

    def __init__(self, name: str, limit: float, last_seen: str, next_step: str = "") -> None:
        super().__init__(name, f"waited {limit:g} s", f"last seen: {last_seen or 'nothing'}", next_step)
        self.limit = limit
        self.last_seen = last_seen


class LabBusy(LabError):
    """Another command holds the lab's lock."""


class HostNotReady(TestbedError):
    """The host lacks something that the command needs; ``testbed doctor`` names it."""

    exit_code = 4


class NotApplicable(TestbedError):
    """What was asked has no meaning in this lab, so that nothing can be said of it."""

    exit_code = 3


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input, and where."""

    location: Location
    message: str
    next_step: str = ""

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class BadInput(TestbedError, ValueError):
    """Input that can't be used: one or more located problems.  Nothing has been done when this is raised."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        if not problems:
            raise ValueError("BadInput needs at least one problem")
        first = problems[0]
        super().__init__(str(first.location), "bad input", first.message, first.next_step)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


def bad_input(where: Location | str, message: str, next_step: str = "") -> BadInput:
    """A ``BadInput`` with a single problem."""
    location = Location(where) if isinstance(where, str) else where
    return BadInput([Problem(location, message, next_step)])
