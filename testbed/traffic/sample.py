"""What became of one request, as its sender saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A request that ended.  ``sent`` is in seconds since the run began, ``took`` in seconds."""

    seq: int
    variant: int
    """Which of the spec's requests it was."""
    status: int
    """0 when there was no answer; ``error`` says why."""
    sent: float
    took: float
    connection: int
    """The number of the connection that it used, from 1."""
    headers: Mapping[str, str]
    error: str
    body: str
    """The beginning of the answer's body."""

    @property
    def answered(self) -> bool:
        """Whether an answer came at all."""
        return not self.error

    @property
    def service(self) -> str:
        """The service that answered; empty for a proxy's own answer."""
        return self.headers.get("x-service", "")

    @classmethod
    def from_row(cls, row: list[Any]) -> Sample:
        """From the agent's form of it."""
        seq, variant, status, sent, took, connection, headers, error, body = row
        return cls(seq, variant, status, sent / 1e6, took / 1e6, connection, headers, error, body)


@dataclass(frozen=True)
class TrafficSummary:
    """How a run ended.  ``complete`` is False when the reader had enough before all were sent."""

    sent: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    connections: int = 0
    complete: bool = False
