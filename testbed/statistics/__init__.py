"""Tests that say how sure they are.  Values in, values out; nothing here knows of requests or meshes.

Words: *alpha* is the chance to reject a claim that is exactly true, *beta* the chance to accept one that is
off by the tolerance or more.  Between the two a test may say either; both chances are promises, computed
exactly in the test suite and not only bounded by theory.
"""

from testbed.statistics.binomial import binomial_cdf, binomial_sf, clopper_pearson
from testbed.statistics.counts import AbsenceTest, PresenceTest, requests_to_see
from testbed.statistics.fixed import EquivalenceResult, fixed_sample_size, tost
from testbed.statistics.goodness import ChiSquareResult, chi_square, chi_square_sf
from testbed.statistics.interval import DEFAULT_TOLERANCE, Tolerated, tolerated
from testbed.statistics.medians import Slowdown, slowdown
from testbed.statistics.quantiles import QuantileInterval, quantile_interval
from testbed.statistics.sequential import Characteristics, Decision, EquivalenceTest, characteristics
from testbed.statistics.split import ArmReport, SplitTest

__all__ = [
    "DEFAULT_TOLERANCE",
    "AbsenceTest",
    "ArmReport",
    "Characteristics",
    "ChiSquareResult",
    "Decision",
    "EquivalenceResult",
    "EquivalenceTest",
    "PresenceTest",
    "QuantileInterval",
    "Slowdown",
    "SplitTest",
    "Tolerated",
    "binomial_cdf",
    "binomial_sf",
    "characteristics",
    "chi_square",
    "chi_square_sf",
    "clopper_pearson",
    "fixed_sample_size",
    "quantile_interval",
    "requests_to_see",
    "slowdown",
    "tolerated",
    "tost",
]
