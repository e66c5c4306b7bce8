"""Pearson's chi-square: do counts look like draws with these shares?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, log


@dataclass(frozen=True)
class ChiSquareResult:
    """The statistic, its degrees of freedom, and the chance of one so large or larger."""

    statistic: float
    freedom: int
    p_value: float


def chi_square(counts: Mapping[str, int], shares: Mapping[str, float]) -> ChiSquareResult:
    """Pearson (Phil. Mag. 50, 1900).  Raises ValueError where an arm expects fewer than 5 (Cochran's rule)."""
    total = sum(counts.values())
    whole = sum(shares.values())
    expected = {arm: total * share / whole for arm, share in shares.items()}
    if min(expected.values()) < 5:
        raise ValueError(f"{total} requests are too few: an arm expects {min(expected.values()):.1f}, fewer than 5")
    statistic = sum((counts.get(arm, 0) - e) ** 2 / e for arm, e in expected.items())
    return ChiSquareResult(statistic, len(shares) - 1, chi_square_sf(statistic, len(shares) - 1))


def chi_square_sf(statistic: float, freedom: int) -> float:
    """P(X >= statistic): the regularized upper incomplete gamma function Q(freedom/2, statistic/2).

    By its series below a + 1 and its continued fraction above (Abramowitz and Stegun 6.5.29 and 6.5.31).
    """
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = exp(a * log(x) - x - lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-15:
            n += 1
            term *= x / n
            total += term
        return 1.0 - front * total
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    fraction = d
    for i in range(1, 500):
        step = -i * (i - a)
        b += 2
        d = 1 / (step * d + b or tiny)
        c = b + step / c or tiny
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * fraction
