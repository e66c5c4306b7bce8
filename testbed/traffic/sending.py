"""Run the agent somewhere and read its samples, in the order of sending."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from testbed.errors import LabError
from testbed.traffic.sample import Sample, TrafficSummary
from testbed.traffic.spec import TrafficSpec

AGENT = "/opt/testbed/traffic/agent.py"
"""Where the shared disk has it, on every node."""


class TrafficFailed(LabError):
    """The agent could not send, or what it said makes no sense: the lab's trouble, not the mesh's."""


class Streams(Protocol):
    """What sending needs of a connection; every ``NodeConnection`` has it."""

    @property
    def node(self) -> str:
        """The node's name."""
        ...

    def stream(
        self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 600
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Run and yield output lines; leaving the context ends the command."""
        ...


class TrafficRun:
    """Iterates over the samples in the order of sending, and then knows how the run ended.

    Order matters: answers of a slow version come late, and a sequential test that took them as they came would
    see the quick version's first.
    """

    def __init__(
        self, spec: TrafficSpec, lines: Iterator[bytes], node: str, began: Callable[[float], None] = lambda _: None
    ) -> None:
        self.spec = spec
        self.summary = TrafficSummary(0)
        self.began: float | None = None
        """The sender's monotonic clock when the run began, in seconds; known before the first sample."""
        self._tell = began
        self._lines = lines
        self._node = node
        self._held: dict[int, Sample] = {}
        self._next = 0

    def __iter__(self) -> Iterator[Sample]:
        for line in self._lines:
            for sample in self._read(line):
                self._held[sample.seq] = sample
            while self._next in self._held:
                self._next += 1
                self.summary = TrafficSummary(self._next)
                yield self._held.pop(self._next - 1)
            if self._ended is not None:
                break
        if self._ended is None:
            raise self._trouble(f"the agent ended after {self._next} of {self.spec.count} requests")
        self.summary = self._ended
        if self._held or self._next != self.spec.count:
            raise self._trouble(f"samples are missing: {self._next} in order of {self.spec.count}")

    _ended: TrafficSummary | None = None

    def _read(self, line: bytes) -> Iterator[Sample]:
        try:
            said = json.loads(line)
            if isinstance(said, list):
                yield from (Sample.from_row(row) for row in said)
            elif "start" in said:
                self.began = float(said["start"]["monotonic"])
                self._tell(self.began)
            elif "failed" in said:
                raise self._trouble(str(said["failed"]))
            elif "end" in said:
                end = said["end"]
                self._ended = TrafficSummary(end["sent"], end["seconds"], end["cpu"], end["connections"], True)
        except (ValueError, KeyError, TypeError) as e:
            raise self._trouble(f"the agent said {line[:200]!r}") from e

    def _trouble(self, cause: str) -> TrafficFailed:
        return TrafficFailed(
            self._node, f"send {self.spec.run}", cause, "testbed status shows whether the node is well"
        )


@contextmanager
def send(
    spec: TrafficSpec,
    at: Streams,
    argv: Sequence[str],
    *,
    limit: float = 600,
    began: Callable[[float], None] = lambda _: None,
) -> Iterator[TrafficRun]:
    """Send what ``spec`` says from ``at``; ``argv`` starts the agent there.  Leaving the context stops it.

    ``limit`` is in seconds; what is sent at a rate may take as long as that needs, and so much more.  ``began`` is
    told the sender's monotonic clock when it begins, while nothing has been answered yet.  Raises
    :class:`TrafficFailed`, and what the connection raises.
    """
    limit += spec.count / spec.rate if spec.rate else 0.0
    with at.stream(argv, stdin=spec.to_json(), limit=limit) as lines:
        yield TrafficRun(spec, lines, at.node, began)
