"""A split over any number of arms, judged arm by arm with the error shared out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from testbed.statistics.counts import AbsenceTest
from testbed.statistics.interval import DEFAULT_TOLERANCE, Tolerated, tolerated
from testbed.statistics.sequential import Decision, EquivalenceTest


@dataclass(frozen=True)
class ArmReport:
    """One arm's share: declared, tolerated, seen."""

    arm: str
    declared: float
    low: float
    high: float
    hits: int
    total: int
    decision: Decision

    @property
    def seen(self) -> float:
        """The share of all requests that the arm got."""
        return self.hits / self.total if self.total else 0.0


class SplitTest:
    """Does each arm get its share, and nobody else anything?

    With two arms one proportion says all.  With k > 2, each has alpha / k (Bonferroni: any of them may wrongly
    reject) and the whole of beta (all of them have to accept).  Arms of weight zero, and arms that were not
    declared, must stay empty: the first hit rejects, and acceptance waits until a share of the tolerance would
    have shown itself.  ``cap`` 0 takes the slowest arm's default.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        tolerance: float | None = None,
        alpha: float = 0.001,
        beta: float = 0.001,
        cap: int = 0,
    ) -> None:
        whole = sum(weights.values())
        if whole <= 0 or min(weights.values()) < 0:
            raise ValueError("weights are 0 or more, and one of them is more")
        self.shares = {arm: weight / whole for arm, weight in weights.items()}
        self.tolerance = tolerance
        self.hits: dict[str, int] = dict.fromkeys(weights, 0)
        self.total = 0
        inner = [arm for arm, share in self.shares.items() if 0 < share < 1]
        tested = inner[:1] if len(inner) == 2 else inner
        self.tests = {
            arm: EquivalenceTest(tolerated(self.shares[arm], tolerance), alpha / len(tested), beta, cap)
            for arm in tested
        }
        self.others = AbsenceTest(tolerance or DEFAULT_TOLERANCE, beta)
        self.cap = cap or max([self.others.needed, *(t.cap for t in self.tests.values())])
        self._mirrored = inner[1] if len(inner) == 2 else None
        self.decision = Decision.OPEN
        self.strays: dict[str, int] = {}

    def observe(self, arm: str) -> Decision:
        """Count one request, in the order of sending; after a decision nothing changes any more."""
        if self.decision is not Decision.OPEN:
            return self.decision
        self.total += 1
        if self.shares.get(arm, 0.0) == 0.0:
            self.strays[arm] = self.strays.get(arm, 0) + 1
        if arm in self.hits:
            self.hits[arm] += 1
        found = [self.others.observe(bool(self.strays))]
        found += [test.observe(arm == name) for name, test in self.tests.items()]
        if Decision.REJECT in found:
            self.decision = Decision.REJECT
        elif all(f is Decision.ACCEPT for f in found):
            self.decision = Decision.ACCEPT
        elif self.total >= self.cap:
            self.decision = Decision.UNDECIDED
        return self.decision

    def zone(self, arm: str) -> Tolerated | None:
        """What is tolerated of an arm; None where the share is 0 or 1."""
        share = self.shares.get(arm, 0.0)
        return tolerated(share, self.tolerance) if 0 < share < 1 else None

    def report(self) -> tuple[ArmReport, ...]:
        """Every declared arm, then those that nobody declared."""
        rows = []
        for arm, share in self.shares.items():
            zone = self.zone(arm)
            low, high = (zone.low, zone.high) if zone else (share, share)
            decided = self.tests.get(arm) or (
                self.tests and arm == self._mirrored and next(iter(self.tests.values()))
            )
            decision = decided.decision if decided else self._exact(arm, share)
            rows.append(ArmReport(arm, share, low, high, self.hits[arm], self.total, decision))
        for arm, hits in self.strays.items():
            if arm not in self.shares:
                rows.append(ArmReport(arm, 0.0, 0.0, 0.0, hits, self.total, Decision.REJECT))
        return tuple(rows)

    def _exact(self, arm: str, share: float) -> Decision:
        if share == 0.0:
            return Decision.REJECT if self.hits[arm] else self.others.decision
        return Decision.REJECT if self.strays else self.others.decision
