"""One look at a sample of a size that was fixed beforehand: equivalence by two one-sided exact tests.

D. J. Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the
equivalence of average bioavailability", J. Pharmacokinetics and Biopharmaceutics 15 (1987), here with exact
binomial tails.  Failing to reject a 50/50 split proves nothing (a sample of one can't reject it); what counts
is rejecting that the share is off by the tolerance or more, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from testbed.statistics.binomial import binomial_cdf, binomial_sf
from testbed.statistics.interval import Tolerated


@dataclass(frozen=True)
class EquivalenceResult:
    """Both one-sided p-values.  ``equivalent`` only when each is at most the ``beta`` asked for."""

    hits: int
    total: int
    p_low: float
    """Chance of so many hits or more, were the share at the low bound."""
    p_high: float
    """Chance of so few hits or fewer, were the share at the high bound."""
    equivalent: bool


def tost(hits: int, total: int, zone: Tolerated, beta: float = 0.001) -> EquivalenceResult:
    """Whether ``hits`` of ``total`` show that the share lies strictly inside ``zone``.

    The chance to say so of a share at a bound or beyond is at most ``beta``: it is an intersection of two
    rejections, so the level is not shared out (R. L. Berger, Technometrics 24, 1982).
    """
    if not 0 <= hits <= total:
        raise ValueError(f"{hits} hits of {total}")
    p_low = binomial_sf(hits, total, zone.low)
    p_high = binomial_cdf(hits, total, zone.high)
    return EquivalenceResult(hits, total, p_low, p_high, max(p_low, p_high) <= beta)


def passing_counts(total: int, zone: Tolerated, beta: float) -> range:
    """The hits, of ``total``, that :func:`tost` calls equivalent; they are contiguous."""
    low = _first(total, lambda k: binomial_sf(k, total, zone.low) <= beta)
    high = _first(total, lambda k: binomial_cdf(k, total, zone.high) > beta)
    return range(low, max(low, high))


def fixed_sample_size(zone: Tolerated, alpha: float = 0.001, beta: float = 0.001) -> int:
    """A sample at which :func:`tost` passes a share that is exactly right with a chance of at least 1 - alpha.

    It is what a test with one look needs, and the yardstick for the sequential one.
    """

    def enough(n: int) -> bool:
        counts = passing_counts(n, zone, beta)
        if not counts:
            return False
        inside = binomial_cdf(counts[-1], n, zone.share) - binomial_cdf(counts[0] - 1, n, zone.share)
        return inside >= 1 - alpha

    high = 16
    while not enough(high):
        high *= 2
    found = _first(high, enough, start=high // 2)
    # counts are whole, so the power is a saw over n: a little below, a size may suffice again
    return min(n for n in range(max(1, found - 64), found + 1) if enough(n))


def _first(limit: int, holds: Callable[[int], bool], start: int = 0) -> int:
    """The smallest n from ``start`` to ``limit`` for which ``holds`` (false before, true after)."""
    low, high = start, limit + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
