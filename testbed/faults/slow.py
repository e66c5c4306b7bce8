"""A slow link, proved by what becomes of echo requests: each property that was asked for is measured."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

from testbed.errors import LabError
from testbed.faults import echoes
from testbed.faults.inside import in_guest
from testbed.faults.proof import Proof
from testbed.lab.lab import Lab
from testbed.plan.guestfaults import ARRIVING, MESH_NIC, Shape, SlowLink

SURE = 1e-4
"""The chance that a property which is there is not seen."""
FEW, MOST = 20, 3000
"""Echo requests: for a delay, and at most; enough for shares of 0.31% and more."""
BURST = 0.3
"""Seconds that a burst of large requests takes at the rate that is to be proved."""
MOST_LARGE = 400
_DROPPED = re.compile(r"qdisc netem [^\n]*\n *Sent \d+ bytes \d+ pkt \(dropped (\d+),")


@dataclass(frozen=True)
class Seen:
    """What became of echo requests: (number of the request, seconds until this answer), as they came."""

    sent: int
    answers: Sequence[tuple[int, float]]
    speed: float = 0.0
    """Bytes a second at which answers to a burst came; 0 when there was none."""
    dropped: Sequence[int] = ()
    """Packets that each queue has dropped, by its own count; empty where nobody counts."""


def requests_for(shape: Shape) -> int:
    """So many that what happens to a share of packets happens to one of these."""
    shares = [p / 100 for p in (shape.loss, shape.duplicate, shape.reorder) if p]
    wanted = [1 if p >= 1 else ceil(log(SURE) / log(1 - p)) for p in shares]
    return min(MOST, max(FEW, *wanted, 0))


def large_for(shape: Shape) -> int:
    """Large requests that the rate needs; 0 without one."""
    return min(MOST_LARGE, max(4, ceil(shape.rate * BURST / echoes.FRAME))) if shape.rate else 0


def judge(shape: Shape, seen: Seen, free: float = 0.0) -> Proof:
    """Whether every property of ``shape`` was seen.  ``free``: the link's speed before, in bytes a second."""
    first: dict[int, float] = {}
    for number, seconds in seen.answers:
        first.setdefault(number, seconds)
    times = sorted(first.values())
    missing, doubled = seen.sent - len(first), len(seen.answers) - len(first)
    words = [f"{len(first)} of {seen.sent} echoes answered"]
    good = bool(first) or shape.loss >= 100
    least = shape.ways * max(0.8 * (shape.delay - shape.jitter), 0.3 * shape.delay)
    if shape.delay and times:
        share = shape.reorder / 100
        middle = times[min(len(times) - 1, int(len(times) * (share + (1 - share) / 2)))]
        words.append(f"median {middle * 1000:.1f} ms")
        good &= middle >= least
    if shape.jitter and times:
        slow = [t for t in times if t >= least / 2] or times
        spread = slow[-1 - len(slow) // 10] - slow[len(slow) // 10]  # a few that were late for other reasons apart
        words.append(f"spread {spread * 1000:.1f} ms")
        good &= spread >= shape.jitter / 2
    if shape.reorder:
        early = sum(t < least / 2 for t in times)  # netem sends these at once
        words.append(f"{early} came early")
        good &= early > 0
    if shape.loss:
        words.append(f"{missing} lost" + "".join(f", {n} dropped by a queue" for n in seen.dropped))
        good &= missing > 0 and all(n > 0 for n in seen.dropped) and (shape.loss < 100 or not first)
    if shape.duplicate:
        words.append(f"{doubled} came twice")
        good &= doubled > 0
    if shape.rate:
        words.append(f"{seen.speed / 1024:.0f} KiB/s, before {free / 1024:.0f}")
        good &= 0 < seen.speed <= 1.25 * shape.rate and seen.speed < 0.8 * free
    return Proof(good, ", ".join(words))


def speed_of(times: Sequence[float]) -> float:
    """Bytes a second, by when the answers to a burst came, in order.  One can't tell."""
    return echoes.FRAME * (len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 0.0


@dataclass
class SlowGrip:
    """Queues in the guest."""

    action: SlowLink
    lab: Lab
    free: float = 0.0
    """The link's speed before, where a rate is to be proved."""

    def begin(self) -> None:
        """Measure how fast the link is, where that will be less, and put the queue there."""
        if burst := large_for(self.action.shape):
            self.free = self._look(0, burst, counters=False).speed
        self._run(self.action.begin, "shape its link")

    def prove(self) -> Proof:
        """Ask another machine, and count."""
        shape = self.action.shape
        return judge(shape, self._look(requests_for(shape), large_for(shape), counters=True), self.free)

    def end(self) -> None:
        """Take it away."""
        self._run(self.action.end, "take the shape off its link")

    def await_well(self) -> None:
        """Nothing to wait for."""

    def _look(self, count: int, burst: int, *, counters: bool) -> Seen:
        shape = self.action.shape
        queue = burst * echoes.FRAME / shape.rate if counters and shape.rate else 0.0
        asked = {
            "to": [str(a) for a in self.action.others],
            "count": count,
            "interval": 0.02 if count <= FEW else 0.002,
            "burst": burst,
            "wait": 1 + 2 * shape.ways * (shape.delay + shape.jitter) + 2 * queue,
        }
        program = (
            f"set -e; python3 -IS - {shlex.quote(json.dumps(asked))} <<'END'\n{inspect.getsource(echoes)}\nEND\n"
        )
        queues = [MESH_NIC, ARRIVING][: shape.ways] if counters else []
        program += "".join(f"tc -s qdisc show dev {name} || true\n" for name in queues)
        status, said = in_guest(self.lab, self.action.node, program)
        if status != 0:
            raise LabError(self.action.node, "measure its link", said.splitlines()[-1] if said else f"{status}")
        first, _, counted = said.partition("\n")
        found = json.loads(first)
        drops = [int(n) for n in _DROPPED.findall(counted)]
        drops += [0] * (len(queues) - len(drops))  # one that is not there has dropped nothing
        answers = [(int(number), seconds) for number, seconds, _ in found["answers"]]
        return Seen(count, answers, speed_of([came for _, _, came in found["burst"]]), drops)

    def _run(self, script: str, action: str) -> None:
        status, said = in_guest(self.lab, self.action.node, script)
        if status != 0:
            raise LabError(self.action.node, action, said or f"exit status {status}")
