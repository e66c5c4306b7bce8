"""A quantile's confidence interval from order statistics: no assumption on how latencies are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.statistics.binomial import binomial_cdf, binomial_sf


@dataclass(frozen=True)
class QuantileInterval:
    """The true quantile lies in [low, high] with at least ``confidence``; None is "the sample can't say"."""

    quantile: float
    low: float | None
    estimate: float
    high: float | None
    confidence: float


def quantile_interval(sample: Sequence[float], quantile: float, confidence: float = 0.999) -> QuantileInterval:
    """The interval between two order statistics (David and Nagaraja, *Order Statistics*, 3rd ed., 7.1).

    As many values lie below the quantile as a Binomial(n, quantile) has hits.  Each side gets half of what
    ``confidence`` leaves; a side for which the sample is too small is None.
    """
    if not sample or not 0 < quantile < 1:
        raise ValueError("a quantile between 0 and 1 of a sample that is not empty")
    ordered = sorted(sample)
    n, tail = len(ordered), (1 - confidence) / 2
    # X(r) <= q fails when fewer than r values lie at or below q
    low = next((r for r in range(n, 0, -1) if binomial_cdf(r - 1, n, quantile) <= tail), None)
    high = next((r for r in range(1, n + 1) if binomial_sf(r, n, quantile) <= tail), None)
    estimate = ordered[min(n - 1, int(n * quantile))]
    return QuantileInterval(
        quantile,
        ordered[low - 1] if low else None,
        estimate,
        ordered[high - 1] if high else None,
        confidence,
    )
