"""Exact tails, the fixed-sample test, quantiles, chi-square, never and at least once."""

import math
import random
from fractions import Fraction

import pytest

from testbed.statistics import (
    AbsenceTest,
    Decision,
    PresenceTest,
    binomial_cdf,
    binomial_sf,
    chi_square,
    chi_square_sf,
    clopper_pearson,
    quantile_interval,
    requests_to_see,
    tolerated,
    tost,
)
from testbed.statistics.fixed import passing_counts


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(1, 20), Fraction(9, 10)])
def test_binomial_tails_agree_with_fractions(n, p):
    terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    for k in range(n + 1):
        assert binomial_cdf(k, n, float(p)) == pytest.approx(float(sum(terms[: k + 1])), rel=1e-11)
        assert binomial_sf(k, n, float(p)) == pytest.approx(float(sum(terms[k:])), rel=1e-11)


def test_failing_to_reject_is_no_proof():
    """Five of ten can't be told from 50/50, and prove nothing."""
    assert not tost(5, 10, tolerated(0.5, 0.1)).equivalent


def test_sixty_forty_is_not_fifty_fifty():
    zone = tolerated(0.5, 0.1)
    assert tost(505, 1010, zone).equivalent
    assert not tost(606, 1010, zone).equivalent
    assert not tost(560, 1010, zone).equivalent  # inside the tolerance, but not shown to be


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_the_fixed_sample_passes_a_wrong_share_with_beta_at_most(share):
    zone = tolerated(share, 0.1)
    counts = passing_counts(1010, zone, 0.001)
    assert all(
        tost(k, 1010, zone).equivalent == (k in counts) for k in range(counts[0] - 3, min(counts[-1] + 4, 1011))
    )
    for wrong in (zone.low, zone.high):
        passes = binomial_cdf(counts[-1], 1010, wrong) - binomial_cdf(counts[0] - 1, 1010, wrong)
        assert passes <= 0.001


def test_clopper_and_pearson_cover():
    low, high = clopper_pearson(0, 100, 0.95)
    assert (low, high) == (0.0, pytest.approx(0.036217, abs=1e-6))
    assert clopper_pearson(50, 100, 0.95) == pytest.approx((0.398321, 0.601679), abs=1e-6)


def test_the_interval_of_a_quantile_covers_it_as_often_as_it_says():
    draw = random.Random(7)
    truth = math.log(2)  # the median of an exponential
    intervals = [quantile_interval([draw.expovariate(1) for _ in range(60)], 0.5, 0.9) for _ in range(2000)]
    covered = sum(i.low <= truth <= i.high for i in intervals) / len(intervals)
    assert 0.9 <= covered < 0.95  # exact where counts allow; a little above, for they are whole


def test_a_sample_too_small_for_a_quantile_says_so():
    interval = quantile_interval([1.0, 2.0, 3.0], 0.99, 0.999)
    assert interval.high is None
    assert quantile_interval([float(i) for i in range(1, 1001)], 0.5).low == pytest.approx(449, abs=2)


@pytest.mark.parametrize(
    ("statistic", "freedom", "p"),
    [(3.841459, 1, 0.05), (10.827566, 1, 0.001), (5.991465, 2, 0.05), (16.918978, 9, 0.05), (0.5, 4, 0.973501)],
)
def test_chi_square_has_the_tables_values(statistic, freedom, p):
    assert chi_square_sf(statistic, freedom) == pytest.approx(p, rel=1e-5)


def test_chi_square_sees_a_lopsided_die():
    fair = dict.fromkeys("abcd", 1.0)
    assert chi_square({"a": 250, "b": 252, "c": 246, "d": 252}, fair).p_value > 0.5
    assert chi_square({"a": 330, "b": 220, "c": 230, "d": 220}, fair).p_value < 0.001
    with pytest.raises(ValueError, match="too few"):
        chi_square({"a": 3}, fair)


def test_never_needs_as_many_requests_as_would_have_shown_it():
    assert requests_to_see(0.01, 0.001) == 688
    assert 0.99**688 <= 0.001 < 0.99**687
    test = AbsenceTest(0.01)
    assert [test.observe(False) for _ in range(688)][-2:] == [Decision.OPEN, Decision.ACCEPT]
    assert AbsenceTest(0.01).observe(True) is Decision.REJECT


def test_at_least_once_is_settled_by_one_hit_and_refuted_by_enough_misses():
    assert PresenceTest(0.01).observe(True) is Decision.ACCEPT
    test = PresenceTest(0.1)
    assert [test.observe(False) for _ in range(test.needed)][-1] is Decision.REJECT
