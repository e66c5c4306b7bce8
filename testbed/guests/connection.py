"""What a connection to a node can do, whoever makes it: SSH to a machine, or a process in a namespace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from testbed.errors import LabError


@dataclass(frozen=True)
class Completed:
    """A command that ended: its exit status and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class CommandFailed(LabError):
    """A command on a node ended with another status than 0."""


class Program(Protocol):
    """A program that goes on running on a node and answers each line that it is sent with a line of its own."""

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as this end knows."""
        ...

    def ask(self, line: bytes, limit: float) -> bytes:
        """Send a line (without its end) and return the answer's; ``limit`` is in seconds.

        Raises LabError when there is none.  Whatever is raised, the program is not asked again.
        """
        ...

    def close(self) -> None:
        """End its input, which ends it."""
        ...


class NodeConnection(Protocol):
    """A way to run commands, as root, on one node.  ``limit`` is in seconds; passing it raises WaitTimeout."""

    @property
    def node(self) -> str:
        """The node's name in the inventory."""
        ...

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60, check: bool = True) -> Completed:
        """Run to the end.  With ``check``, a status other than 0 raises :class:`CommandFailed`."""
        ...

    def stream(
        self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 600
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Run and yield its output line by line as it comes; leaving the context ends the command."""
        ...

    def start(self, argv: Sequence[str]) -> Program:
        """Run a program that is talked to until it is closed, or the connection is."""
        ...
