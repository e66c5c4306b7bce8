"""Never, at least once: what can be said when the share is nil, or only has to be more than nil."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, log1p

from testbed.statistics.sequential import Decision


def requests_to_see(share: float, miss: float) -> int:
    """How many requests an arm of ``share`` escapes with a chance of at most ``miss``: (1 - share)^n <= miss.

    For small shares it is ln(1/miss) / share, the "rule of three" at miss = 0.05 (Hanley and Lippman-Hand,
    JAMA 249, 1983).
    """
    if not (0 < share < 1 and 0 < miss < 1):
        raise ValueError(f"share {share} and miss {miss} lie between 0 and 1")
    return ceil(log(miss) / log1p(-share))


@dataclass
class AbsenceTest:
    """An arm that must get nothing: rejected at its first hit, accepted once ``below`` would have shown.

    An arm that does get nothing is never rejected (alpha is 0); one with a share of ``below`` or more is
    accepted with a chance of at most ``beta``.
    """

    below: float
    beta: float = 0.001
    total: int = 0
    hits: int = 0
    decision: Decision = Decision.OPEN

    def __post_init__(self) -> None:
        self.needed = requests_to_see(self.below, self.beta)

    def observe(self, hit: bool) -> Decision:
        """Count one request."""
        self.total += 1
        self.hits += hit
        if hit and self.decision is not Decision.ACCEPT:
            self.decision = Decision.REJECT
        elif self.decision is Decision.OPEN and self.total >= self.needed:
            self.decision = Decision.ACCEPT
        return self.decision


@dataclass
class PresenceTest:
    """An arm that must be seen at least once: accepted at its first hit, and beta is 0.

    One with a share of ``above`` or more is rejected with a chance of at most ``alpha``.
    """

    above: float
    alpha: float = 0.001
    total: int = 0
    hits: int = 0
    decision: Decision = Decision.OPEN

    def __post_init__(self) -> None:
        self.needed = requests_to_see(self.above, self.alpha)

    def observe(self, hit: bool) -> Decision:
        """Count one request."""
        self.total += 1
        self.hits += hit
        if self.decision is Decision.OPEN:
            if hit:
                self.decision = Decision.ACCEPT
            elif self.total >= self.needed:
                self.decision = Decision.REJECT
        return self.decision
