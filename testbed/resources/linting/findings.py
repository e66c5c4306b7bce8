"""What lint finds, and the register of its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from testbed.documents import Path
from testbed.errors import Location
from testbed.resources.linting.context import Context
from testbed.resources.resource import AnyResource


class Severity(StrEnum):
    """ERROR: something will not work; WARNING: probably not what was meant; INFO: good to know."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One finding.  ``location`` has file, line, column and field path."""

    location: Location
    severity: Severity
    code: str
    message: str
    effect: str
    """What Istio does with it."""
    advice: str
    """What to write."""

    def __str__(self) -> str:
        return f"{self.location}: {self.severity}: {self.message} [{self.code}]"


Hit = tuple[AnyResource, Path, str, str]
"""The resource, the field's path in its document, what is wrong, what to write."""


@dataclass(frozen=True)
class Check:
    """One check: its code, how bad a hit is, what Istio does with it, and how it is found."""

    code: str
    severity: Severity
    effect: str
    find: Callable[[Context], Iterator[Hit]]

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.find.__doc__ or "").strip().splitlines()[0]

    def run(self, context: Context) -> Iterator[Finding]:
        """Its findings."""
        for resource, path, message, advice in self.find(context):
            yield Finding(resource.locate(*path), self.severity, self.code, message, self.effect, advice)


CHECKS: list[Check] = []


def check(
    code: str, severity: Severity, effect: str
) -> Callable[[Callable[[Context], Iterator[Hit]]], Callable[[Context], Iterator[Hit]]]:
    """Register a function as a check; its docstring says what it finds."""

    def register(find: Callable[[Context], Iterator[Hit]]) -> Callable[[Context], Iterator[Hit]]:
        CHECKS.append(Check(code, severity, effect, find))
        return find

    return register
