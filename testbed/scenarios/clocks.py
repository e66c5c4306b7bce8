"""A guest's clocks against the host's: faults happen on the host's, samples and logs are on a guest's."""

from __future__ import annotations

import time
from dataclasses import dataclass

from testbed.guests import NodeConnection

LOOKS = 5
UPTIME_STEP = 0.01
"""Seconds: ``/proc/uptime`` has two digits after the point."""
DRIFTS = 1e-3
"""A clock that gains more of a second each second did not drift: it stood, or was set."""


@dataclass(frozen=True)
class GuestClock:
    """A guest's clocks against the host's monotonic one, all in seconds: guest minus host.

    ``resolution`` is half of the quickest round trip and a step of the clock that is read: the offset lies within
    so much of the truth.  ``at`` is when it was measured, on the host's.
    """

    monotonic: float = 0.0
    wall: float = 0.0
    resolution: float = 0.0
    at: float = 0.0

    @classmethod
    def of_host(cls) -> GuestClock:
        """The host's own: nothing to measure."""
        now = time.monotonic()
        return cls(0.0, time.time() - now, 0.0, now)

    @classmethod
    def measure(cls, connection: NodeConnection) -> GuestClock:
        """The quickest of a few looks."""
        best: GuestClock | None = None
        for _ in range(LOOKS):
            before = time.monotonic()
            said = connection.run(
                ["sh", "-c", "read -r up _ </proc/uptime; echo $up $(date +%s.%N)"]
            ).stdout.split()
            after = time.monotonic()
            middle, resolution = (before + after) / 2, (after - before) / 2 + UPTIME_STEP
            if best is None or resolution < best.resolution:
                best = cls(float(said[0]) - middle, float(said[1]) - middle, resolution, middle)
        assert best is not None  # noqa: S101 - LOOKS is positive
        return best


@dataclass(frozen=True)
class RunClock:
    """The sender's clock for the length of a run, by a look before and one after: an emulated machine's gains or
    loses some hundredths of a second in an hour, and is taken to do so evenly."""

    first: GuestClock
    last: GuestClock

    @property
    def resolution(self) -> float:
        """How well the sender's times and the host's are known to each other, in seconds."""
        return max(self.first.resolution, self.last.resolution if self._drifted else 0.0)

    @property
    def _drifted(self) -> bool:
        lasted = self.last.at - self.first.at
        moved = abs(self.last.monotonic - self.first.monotonic)
        return lasted > 0 and moved <= DRIFTS * lasted + self.first.resolution + self.last.resolution

    def guest(self, host: float) -> float:
        """The sender's monotonic clock when the host's said ``host``."""
        offset = self.first.monotonic
        if self._drifted:
            share = (host - self.first.at) / (self.last.at - self.first.at)
            offset += (self.last.monotonic - offset) * min(max(share, 0.0), 1.0)
        return host + offset
