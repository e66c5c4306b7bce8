"""When the lab's machines had no processor of their host: a request that hung then says nothing of the mesh."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

LOOK_EVERY = 0.5
STARVED = 0.5
"""Share of a time in which a machine's thread was ready and had no processor, from which on nothing is said of what
that machine did not answer in it."""

Threads = Callable[[], Mapping[str, Mapping[int, float]]]
"""Node -> thread -> seconds that it has waited for a processor so far."""


@dataclass(frozen=True)
class Stretch:
    """A time between two looks, and the share of it that the worst thread of each node waited."""

    began: float
    ended: float
    waited: Mapping[str, float]


@dataclass(frozen=True)
class Processors:
    """Stretches that follow each other.  Without any, nothing is known and nothing is excused."""

    stretches: tuple[Stretch, ...] = ()

    def waited(self, node: str, since: float, until: float) -> float:
        """Share of that time in which the node's worst thread waited."""
        if until <= since:
            return 0.0
        first = max(0, bisect_right(self.stretches, since, key=lambda s: s.began) - 1)
        total = 0.0
        for stretch in islice(self.stretches, first, None):
            if stretch.began >= until:
                break
            overlap = min(until, stretch.ended) - max(since, stretch.began)
            total += max(0.0, overlap) * stretch.waited.get(node, 0.0)
        return total / (until - since)

    def starved(self, nodes: Iterable[str], since: float, until: float) -> list[str]:
        """Which of the nodes waited for more than :data:`STARVED` of that time."""
        return [n for n in nodes if self.waited(n, since, until) > STARVED]

    def hungry(self, seconds: float) -> float:
        """Share of all moments from which on some node was starved for so long."""
        nodes = {n for s in self.stretches for n in s.waited}
        whole = sum(s.ended - s.began for s in self.stretches)
        end = self.stretches[-1].ended if self.stretches else 0.0
        found = (s for s in self.stretches if self.starved(nodes, s.began, min(end, s.began + seconds)))
        return sum(s.ended - s.began for s in found) / whole if whole else 0.0

    def on(self, clock: Callable[[float], float]) -> Processors:
        """The same on another clock."""
        return Processors(tuple(replace(s, began=clock(s.began), ended=clock(s.ended)) for s in self.stretches))


@dataclass
class Watch:
    """Looks every half second, in a thread of its own.  Times are the host's monotonic ones."""

    threads: Threads
    stretches: list[Stretch] = field(default_factory=list)

    @property
    def seen(self) -> Processors:
        """What there is so far."""
        return Processors(tuple(self.stretches))

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """For as long as the block lasts."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="processors", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        then, before = time.monotonic(), self.threads()
        while not over.wait(LOOK_EVERY):
            now, after = time.monotonic(), self.threads()
            self.stretches.append(Stretch(then, now, worst(before, after, now - then)))
            then, before = now, after


def worst(
    before: Mapping[str, Mapping[int, float]], after: Mapping[str, Mapping[int, float]], seconds: float
) -> dict[str, float]:
    """Node -> the share that its thread which waited longest did; a thread that is new has no share yet."""
    found: dict[str, float] = {}
    for node, threads in after.items():
        known = before.get(node, {})
        longest = max((now - known[t] for t, now in threads.items() if t in known), default=0.0)
        found[node] = min(1.0, longest / seconds)
    return found
