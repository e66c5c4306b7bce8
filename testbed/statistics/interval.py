"""Which shares count as the declared one: p0 give or take a tolerance that never leaves (0, 1)."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TOLERANCE = 0.05
FACTOR = 2.0


@dataclass(frozen=True)
class Tolerated:
    """A declared share and the nearest shares that are wrong: at ``low`` or ``high`` and beyond."""

    share: float
    low: float
    high: float


def tolerated(share: float, tolerance: float | None = None) -> Tolerated:
    """The indifference zone around ``share``, which lies strictly between 0 and 1.

    ``share ± tolerance`` where that fits into [0, 1].  Where it does not, the rarer side is wrong at half and at
    twice what was declared: an arm of 1% that gets nothing, or 5%, is not an arm of 1%.  With no tolerance
    declared it is 5 points, or the factor of two where that is tighter, so that a 5% canary can't be at 0.1%.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"a share of {share} has no two sides; zero-weight arms have a test of their own")
    if tolerance is not None and tolerance <= 0:
        raise ValueError("a tolerance must be above 0: no finite sample shows equality")
    points = DEFAULT_TOLERANCE if tolerance is None else tolerance
    rare = min(share, 1.0 - share)
    slack = 1e-12  # 0.1 + 0.9 is not quite 1
    if tolerance is not None and points <= rare + slack:
        low, high = max(0.0, rare - points), min(1.0, rare + points)
    else:
        low, high = max(rare - points, rare / FACTOR), min(rare + points, rare * FACTOR)
    low, high = (0.0 if low < slack else low), (1.0 if high > 1 - slack else high)
    return Tolerated(share, low, high) if share <= 0.5 else Tolerated(share, 1.0 - high, 1.0 - low)
