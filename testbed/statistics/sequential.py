"""Equivalence by two one-sided sequential probability ratio tests, looked at after every request.

A. Wald, "Sequential Tests of Statistical Hypotheses", Ann. Math. Statist. 16 (1945): with bounds
ln((1 - alpha) / beta) and ln(alpha / (1 - beta)) on the log likelihood ratio, the two error rates hold and no
test with those rates has a smaller mean sample (Wald and Wolfowitz, 1948).  Two of them run side by side: p0
against the low bound of what is tolerated, and p0 against the high one.

- The claim is accepted when *both* have decided for p0; to be wrong at a bound, the test against that very
  bound has to err, so each has the whole of ``beta`` (Berger 1982, as for the fixed sample).
- It is rejected as soon as *either* decides for its bound; either can be wrong at p0, so each has alpha / 2.
- Wald's bounds count on a ratio that meets them; it steps over them, and the rates are lower than declared.  What
  this leaves of ``beta`` is taken back: the bound for acceptance is lowered as far as the exact chance allows.
- At ``cap`` requests it stays undecided.  Truncation can only take away decisions, never make a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import ceil, inf, log

from testbed.statistics.interval import Tolerated


class Decision(StrEnum):
    """What a test has come to."""

    OPEN = "open"
    ACCEPT = "accept"
    REJECT = "reject"
    UNDECIDED = "undecided"
    """The cap was reached first."""


@dataclass(frozen=True)
class _Ratio:
    """One SPRT of ``share`` against ``bound``: how much a hit and a miss weigh."""

    hit: float
    miss: float

    @classmethod
    def of(cls, share: float, bound: float) -> _Ratio:
        return cls(
            log(share / bound) if bound > 0 else inf,
            log((1 - share) / (1 - bound)) if bound < 1 else inf,
        )

    def at(self, hits: int, misses: int) -> float:
        # an infinite weight times no event is no evidence
        return (self.hit * hits if hits else 0.0) + (self.miss * misses if misses else 0.0)


@dataclass
class EquivalenceTest:
    """Is the share of hits the declared one?  Feed it with :meth:`observe`, in the order of sending."""

    zone: Tolerated
    alpha: float = 0.001
    beta: float = 0.001
    cap: int = 0
    """0 takes :func:`default_cap`."""
    hits: int = 0
    total: int = 0
    decision: Decision = Decision.OPEN
    low_passed_at: int | None = None
    high_passed_at: int | None = None
    path: list[tuple[int, float, float]] = field(default_factory=list, repr=False)
    """(requests, log ratio against low, log ratio against high); held at the bound once that side decided."""

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 0.5 and 0 < self.beta < 0.5):
            raise ValueError("alpha and beta are chances between 0 and 0.5")
        self._low = _Ratio.of(self.zone.share, self.zone.low)
        self._high = _Ratio.of(self.zone.share, self.zone.high)
        self.accept_at, self.reject_at = exact_bounds(self.zone, self.alpha, self.beta)
        self.cap = self.cap or default_cap(self.zone, self.alpha, self.beta)

    def observe(self, hit: bool) -> Decision:
        """Count one request.  After a decision further requests are counted and change nothing."""
        self.total += 1
        self.hits += hit
        if self.decision is not Decision.OPEN:
            return self.decision
        low, high = self._low.at(self.hits, self.misses), self._high.at(self.hits, self.misses)
        if self.low_passed_at is None:
            if low >= self.accept_at:
                self.low_passed_at = self.total
            elif low <= self.reject_at:
                self.decision = Decision.REJECT
        if self.high_passed_at is None:
            if high >= self.accept_at:
                self.high_passed_at = self.total
            elif high <= self.reject_at:
                self.decision = Decision.REJECT
        if self.decision is Decision.OPEN:
            if self.low_passed_at is not None and self.high_passed_at is not None:
                self.decision = Decision.ACCEPT
            elif self.total >= self.cap:
                self.decision = Decision.UNDECIDED
        self.path.append(
            (
                self.total,
                self.accept_at if self.low_passed_at is not None else self._shown(low),
                self.accept_at if self.high_passed_at is not None else self._shown(high),
            )
        )
        return self.decision

    @property
    def misses(self) -> int:
        """Requests that were not hits."""
        return self.total - self.hits

    def _shown(self, ratio: float) -> float:
        return max(self.reject_at, min(self.accept_at, ratio))


def bounds(alpha: float, beta: float) -> tuple[float, float]:
    """Wald's bounds of each one-sided test, (accept, reject), as logarithms; ``alpha`` is halved here."""
    return log((1 - alpha / 2) / beta), log(alpha / 2 / (1 - beta))


EXACT_UP_TO = 12_000
"""Caps of tests whose bounds are made exact, which takes a second at most; above, steps are so small that a ratio
hardly passes its bound, and there is less to take back."""


@lru_cache(maxsize=256)
def exact_bounds(zone: Tolerated, alpha: float, beta: float) -> tuple[float, float]:
    """Wald's bounds with the one for acceptance lowered, where the chance to pass it at either bound of the zone,
    computed exactly, still is ``beta`` at most."""
    accept, reject = bounds(alpha, beta)
    if default_cap(zone, alpha, beta) > EXACT_UP_TO:
        return accept, reject
    sides = [(_Ratio.of(zone.share, bound), bound) for bound in (zone.low, zone.high)]
    wald = max(_passes(ratio, bound, accept, reject) for ratio, bound in sides)
    if not 0 < wald < beta:
        return accept, reject
    for part in (0.9, 0.6, 0.3):  # the chance falls in steps, not smoothly, so each is looked at
        lower = accept + part * log(wald / beta)
        if all(_passes(ratio, bound, lower, reject) <= beta for ratio, bound in sides):
            return lower, reject
    return accept, reject


def _passes(ratio: _Ratio, true_share: float, accept: float, reject: float) -> float:
    """The exact chance that one side decides for the declared share when its bound is the true one: the other side
    and the cap, which can only make it smaller, are left out.  Ends when 1e-12 of the probability is open."""
    if inf in (ratio.hit, ratio.miss):
        return 0.0  # what would weigh so much never happens
    if ratio.hit < 0:  # against the high bound misses speak for the declared share: change places
        ratio, true_share = _Ratio(ratio.miss, ratio.hit), 1 - true_share
    passed, first, masses = 0.0, 0, [1.0]  # masses[i]: chance to be open with ``first + i`` hits
    n = 0
    while masses and (n % 64 or sum(masses) > 1e-12):
        n += 1
        masses = [
            a * (1 - true_share) + b * true_share for a, b in zip([*masses, 0.0], [0.0, *masses], strict=True)
        ]
        while masses and ratio.at(first + len(masses) - 1, n - first - len(masses) + 1) >= accept:
            passed += masses.pop()
        ended = 0
        while ended < len(masses) and ratio.at(first + ended, n - first - ended) <= reject:
            ended += 1
        first, masses = first + ended, masses[ended:]
    return passed


def default_cap(zone: Tolerated, alpha: float, beta: float) -> int:
    """Six times Wald's mean sample for a share that is exactly right: such a share runs into the cap
    about three times in 100,000, one half-way to a bound, where the test is slowest, more often."""
    accept, _ = bounds(alpha, beta)
    return ceil(6 * accept / min(_information(zone.share, b) for b in (zone.low, zone.high)))


def _information(share: float, bound: float) -> float:
    """Kullback and Leibler's information per request: the log ratio's mean step when ``share`` is true."""
    ratio = _Ratio.of(share, bound)
    if inf in (ratio.hit, ratio.miss):
        return max(share, 1 - share) if bound in (0.0, 1.0) else inf
    return share * ratio.hit + (1 - share) * ratio.miss


@dataclass(frozen=True)
class Characteristics:
    """What a test does when the true share is ``true_share``: chances that add up to 1, and its mean sample."""

    true_share: float
    accept: float
    reject: float
    undecided: float
    mean_requests: float


def characteristics(test: EquivalenceTest, true_share: float) -> Characteristics:
    """Exact, by dynamic programming over (requests, hits, which side has passed); ``test`` is only read.

    The state holds every path that is still open with its probability, so that nothing is approximated but the
    rounding of floats; the walk ends at the cap, or when less than 1e-12 of the probability is open.
    """
    low, high = _Ratio.of(test.zone.share, test.zone.low), _Ratio.of(test.zone.share, test.zone.high)
    steps = [(1, true_share), (0, 1 - true_share)]
    steps = [(step, chance) for step, chance in steps if chance > 0]
    states: dict[tuple[int, bool, bool], float] = {(0, False, False): 1.0}
    accepted = rejected = mean = 0.0
    open_mass = 1.0
    for n in range(1, test.cap + 1):
        mean += open_mass
        following: dict[tuple[int, bool, bool], float] = {}
        for (hits_before, low_passed, high_passed), mass in states.items():
            for step, chance in steps:
                hits = hits_before + step
                weight = mass * chance
                at_low = test.accept_at if low_passed else low.at(hits, n - hits)
                at_high = test.accept_at if high_passed else high.at(hits, n - hits)
                if at_low <= test.reject_at or at_high <= test.reject_at:
                    rejected += weight
                elif at_low >= test.accept_at and at_high >= test.accept_at:
                    accepted += weight
                else:
                    key = (hits, at_low >= test.accept_at, at_high >= test.accept_at)
                    following[key] = following.get(key, 0.0) + weight
        states = following
        open_mass = sum(states.values())
        if open_mass < 1e-12:
            break
    return Characteristics(true_share, accepted, rejected, open_mass, mean)
