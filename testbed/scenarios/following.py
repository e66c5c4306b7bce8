"""A run with faults while it runs: what it has come to so far, said now and then and written down as it happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from testbed.model.fault import Fault
from testbed.scenarios.overtime import succeeded
from testbed.traffic import Sample

EVERY = 30.0
"""Seconds between two lines about a run."""


class Follower:
    """Counts, says, and writes.

    ``file`` gets one JSON object a line as things happen, so that a run that is killed leaves what it had seen.
    """

    def __init__(self, file: Path | None = None, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._planned = self._begun = self._unproved = self._requests = self._lost = 0
        self._began = self._said = time.monotonic()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", buffering=1) if file is not None else None

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, planned: int) -> None:
        """The traffic begins; so many faults lie ahead."""
        with self._lock:
            self._planned = planned
            self._began = self._said = time.monotonic()

    def fault(self, fault: Fault, what: str, words: str) -> None:
        """Something became of a fault."""
        with self._lock:
            self._begun += what == "begun"
            self._unproved += what in ("unproved", "went wrong", "not made")
            self._write({"at": self._elapsed(), "fault": fault.title, "what": what, "words": words})

    def sample(self, sample: Sample) -> None:
        """A request ended."""
        with self._lock:
            self._requests += 1
            good = succeeded(sample)
            self._lost += not good
            plain: dict[str, object] = {
                "request": sample.seq,
                "sent": round(sample.sent, 3),
                "took": round(sample.took, 3),
            }
            plain |= {"status": sample.status} if sample.answered else {"error": sample.error}
            if not good and sample.body:
                plain["body"] = sample.body[:200]
            self._write(plain)
            if self._say is not None and time.monotonic() - self._said >= EVERY:
                self._said = time.monotonic()
                self._say(self._line())

    def _line(self) -> str:
        minutes, seconds = divmod(int(self._elapsed()), 60)
        unproved = f" ({self._unproved} unproved)" if self._unproved else ""
        faults = f"{self._begun} of {self._planned} faults{unproved}"
        return f"{minutes}:{seconds:02}: {faults}, {self._requests} requests, {self._lost} lost"

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def _write(self, plain: dict[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(plain, separators=(",", ":")) + "\n")
