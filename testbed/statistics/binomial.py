"""The binomial distribution, exactly: sums of terms from ``math.lgamma``, no normal approximation anywhere."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, fsum, lgamma, log, log1p


def log_pmf(k: int, n: int, p: float) -> float:
    """The logarithm of P(X = k); ``-inf`` where that is impossible."""
    if p in (0.0, 1.0):
        return 0.0 if k == n * p else float("-inf")
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p)


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p).  The shorter tail is summed, so small values keep their digits."""
    _check(n, p)
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    if k > n * p:
        return 1.0 - _sum(k + 1, n, n, p)
    return _sum(0, k, n, p)


def binomial_sf(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p) (the tail *includes* ``k``)."""
    _check(n, p)
    return binomial_cdf(n - k, n, 1.0 - p)


def clopper_pearson(k: int, n: int, confidence: float) -> tuple[float, float]:
    """The exact interval for a proportion (Clopper and Pearson, Biometrika 26, 1934): covers at least so often."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is no sample")
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else _solve(lambda p: binomial_sf(k, n, p) - tail)
    high = 1.0 if k == n else _solve(lambda p: tail - binomial_cdf(k, n, p))
    return low, high


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):  # halves the width to below one part in 10^18
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def _sum(first: int, last: int, n: int, p: float) -> float:
    return min(1.0, fsum(exp(log_pmf(k, n, p)) for k in range(first, last + 1)))


def _check(n: int, p: float) -> None:
    if n < 0 or not 0.0 <= p <= 1.0:
        raise ValueError(f"no binomial distribution has n={n}, p={p}")
