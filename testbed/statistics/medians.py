"""Is one sample slower than another by a factor?  Mood's median test, exactly.

A. M. Mood, *Introduction to the Theory of Statistics* (1950), 16.5.  Nothing is assumed of latencies but that what
is slower is slower by a factor: if the later sample comes from the earlier one's distribution stretched by it, all
ways to deal the values among both are equally likely, so that the number of the later one's values in the upper
half of both together is hypergeometric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, lgamma
from statistics import median


@dataclass(frozen=True)
class Slowdown:
    """What two samples say of a factor."""

    ratio: float
    """Of the medians."""
    if_slower: float
    """The chance to see this, or less of a slowdown, when the later one is slower by the factor or more."""
    if_not: float
    """The chance to see this, or more of a slowdown, when it is slower by the factor at most."""


def slowdown(before: Sequence[float], after: Sequence[float], factor: float) -> Slowdown:
    """How ``after`` compares with ``factor`` times ``before``.  Raises ValueError when either is empty.

    Equal values count against either conclusion.
    """
    if not before or not after:
        raise ValueError("two samples that are not empty")
    middle, base = median(after), median(before)
    ratio = middle / base if base else float("inf") if middle else 1.0
    stretched = [factor * value for value in before]
    return Slowdown(
        ratio,
        if_slower=_at_most(_above(stretched, after, ties_above=True), len(before), len(after)),
        if_not=_at_least(_above(stretched, after, ties_above=False), len(before), len(after)),
    )


def _above(before: Sequence[float], after: Sequence[float], *, ties_above: bool) -> int:
    """How many of ``after`` are in the upper half of both; among equal ones they come last, or first."""
    values = sorted(
        [(v, 0 if ties_above else 1, False) for v in before] + [(v, 0 + ties_above, True) for v in after]
    )
    return sum(of_after for _, _, of_after in values[len(values) - len(values) // 2 :])


def _chance(count: int, before: int, after: int) -> float:
    half = (before + after) // 2
    return exp(_ways(after, count) + _ways(before, half - count) - _ways(before + after, half))


def _ways(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _at_most(count: int, before: int, after: int) -> float:
    least = max(0, (before + after) // 2 - before)
    return min(1.0, fsum(_chance(k, before, after) for k in range(least, count + 1)))


def _at_least(count: int, before: int, after: int) -> float:
    most = min(after, (before + after) // 2)
    return min(1.0, fsum(_chance(k, before, after) for k in range(count, most + 1)))
