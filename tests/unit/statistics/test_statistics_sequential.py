"""The sequential test keeps what it promises.  Operating characteristics are exact, by dynamic programming."""

import random
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

from testbed.statistics import (
    Decision,
    EquivalenceTest,
    SplitTest,
    characteristics,
    fixed_sample_size,
    tolerated,
)
from testbed.statistics.sequential import bounds

DOCS = Path(__file__).parents[3] / "docs/explanation"

# (declared share, tolerance) -> mean requests when the share is exactly right, at alpha = beta = 0.001: at most these
FIGURES = {
    (0.5, 0.1): 475,
    (0.75, 0.1): 359,
    (0.9, 0.1): 190,
    (0.5, 0.05): 1916,
    (0.75, 0.05): 1441,
    (0.9, 0.05): 710,
}
DESIGNS = [*FIGURES, (0.1, 0.1), (0.25, 0.05), (0.05, None), (0.02, None), (0.98, None), (0.5, 0.2), (1 / 3, 0.1)]
ERRORS = [(0.001, 0.001), (0.05, 0.01), (0.01, 0.2)]


@cache
def exact(share, tolerance, alpha, beta, where):
    zone = tolerated(share, tolerance)
    return characteristics(EquivalenceTest(zone, alpha, beta), getattr(zone, where))


@pytest.mark.parametrize(("share", "tolerance"), FIGURES)
def test_mean_requests_at_the_declared_share(share, tolerance):
    assert exact(share, tolerance, 0.001, 0.001, "share").mean_requests <= FIGURES[share, tolerance]


@pytest.mark.parametrize(("alpha", "beta"), ERRORS)
@pytest.mark.parametrize(("share", "tolerance"), DESIGNS)
def test_a_share_that_is_exactly_right_is_rejected_with_alpha_at_most(share, tolerance, alpha, beta):
    assert exact(share, tolerance, alpha, beta, "share").reject <= alpha


@pytest.mark.parametrize(("alpha", "beta"), ERRORS)
@pytest.mark.parametrize("bound", ["low", "high"])
@pytest.mark.parametrize(("share", "tolerance"), DESIGNS)
def test_a_share_at_a_bound_is_accepted_with_beta_at_most(share, tolerance, bound, alpha, beta):
    assert exact(share, tolerance, alpha, beta, bound).accept <= beta


@pytest.mark.parametrize(("share", "tolerance"), [(0.5, 0.1), (0.9, 0.05), (0.05, None)])
def test_the_bound_for_acceptance_is_lowered_no_further_than_beta_allows(share, tolerance):
    """Wald's bound is met with a jump, which wastes some of beta; what is left of it is under a hundredth."""
    zone = tolerated(share, tolerance)
    test = EquivalenceTest(zone)
    wald, _ = bounds(0.001, 0.001)
    assert test.accept_at < wald
    worst = max(exact(share, tolerance, 0.001, 0.001, where).accept for where in ("low", "high"))
    assert 0.00098 < worst <= 0.001


def test_a_test_that_takes_too_long_to_be_computed_keeps_walds_bounds():
    zone = tolerated(0.5, 0.01)
    assert (EquivalenceTest(zone).accept_at, EquivalenceTest(zone).reject_at) == bounds(0.001, 0.001)


@pytest.mark.parametrize("bound", ["low", "high"])
@pytest.mark.parametrize(("share", "tolerance"), [(0.5, 0.1), (0.3, 0.1), (0.2, 0.1), (1 / 3, 0.1), (0.9, 0.05)])
def test_with_three_arms_a_share_at_a_bound_is_accepted_with_beta_at_most(share, tolerance, bound):
    """Each arm has a third of alpha and the whole of beta, for all of them have to accept."""
    zone = tolerated(share, tolerance)
    found = characteristics(EquivalenceTest(zone, 0.001 / 3, 0.001), getattr(zone, bound))
    assert found.accept <= 0.001


@pytest.mark.parametrize(("share", "tolerance"), DESIGNS)
def test_the_cap_hardly_ever_leaves_a_right_or_a_wrong_share_undecided(share, tolerance):
    for where in ("low", "share", "high"):
        assert exact(share, tolerance, 0.001, 0.001, where).undecided < 1e-4


@pytest.mark.parametrize(("share", "tolerance"), [(0.5, 0.1), (0.05, None)])
def test_a_third_of_alpha_costs_a_right_share_next_to_nothing_and_a_wrong_one_a_seventh(share, tolerance):
    """What the splits of a canary pay for sharing alpha: only the way to a FAIL grows."""
    whole, third = ((0.001, 0.001), (0.001 / 3, 0.001))
    means = [
        [exact(share, tolerance, *e, w).mean_requests for e in (whole, third)] for w in ("share", "low", "high")
    ]
    (right, right_third), *wrong = means
    assert right < right_third < 1.002 * right
    assert all(1.1 < after / before < 1.15 for before, after in wrong)
    assert exact(share, tolerance, *third, "share").reject <= 0.001 / 3


def test_the_errors_do_not_grow_beyond_the_bounds():
    zone = tolerated(0.5, 0.1)
    test = EquivalenceTest(zone)
    accepted = [characteristics(test, share).accept for share in (0.4, 0.38, 0.35, 0.2)]
    assert accepted == sorted(accepted, reverse=True)
    assert accepted[-1] < 1e-6


def test_the_sequential_test_needs_fewer_than_half_the_requests_of_a_fixed_sample():
    zone = tolerated(0.5, 0.1)
    assert exact(0.5, 0.1, 0.001, 0.001, "share").mean_requests < fixed_sample_size(zone) / 2


def test_the_documents_table_has_the_exact_figures():
    page = (DOCS / "statistics.md").read_text()
    rows = re.findall(r"^\| (\d+)/\d+ \| (\d+) points \| (\d+) \| (\d+) \|$", page, re.M)
    assert len(rows) == len(FIGURES)
    for percent, points, mean, fixed in rows:
        share, tolerance = int(percent) / 100, int(points) / 100
        assert round(exact(share, tolerance, 0.001, 0.001, "share").mean_requests) == int(mean)
        assert fixed_sample_size(tolerated(share, tolerance)) == int(fixed)
    right, wrong = (exact(0.5, 0.1, 0.001, 0.001, "share").reject, exact(0.5, 0.1, 0.001, 0.001, "low").accept)
    assert f"a right mesh gets a FAIL with {right:.5f} and a mesh at 40/60 a PASS with\n{wrong:.5f}" in page


def test_the_documents_plot_is_current():
    """Draw it anew with: python docs/explanation/statistics_plot.py"""
    plot = runpy.run_path(str(DOCS / "statistics_plot.py"))
    assert (DOCS / "statistics.svg").read_text() == plot["drawn"]()


@pytest.mark.parametrize("true_share", [0.4, 0.44, 0.5])
def test_a_simulation_agrees_with_the_exact_figures(true_share):
    """The walk of characteristics() and that of observe() are two programs; they must be one test."""
    alpha, beta, runs = 0.05, 0.05, 4000
    zone = tolerated(0.5, 0.1)
    expected = characteristics(EquivalenceTest(zone, alpha, beta), true_share)
    draw = random.Random(20240601)
    accepted = requests = 0
    for _ in range(runs):
        test = EquivalenceTest(zone, alpha, beta)
        while test.decision is Decision.OPEN:
            test.observe(draw.random() < true_share)
        accepted += test.decision is Decision.ACCEPT
        requests += test.total
    spread = (expected.accept * (1 - expected.accept) / runs) ** 0.5
    assert accepted / runs == pytest.approx(expected.accept, abs=4.5 * spread + 1e-9)
    assert requests / runs == pytest.approx(expected.mean_requests, rel=0.05)


def test_truncation_gives_no_verdict_and_no_error():
    zone = tolerated(0.5, 0.05)
    short = characteristics(EquivalenceTest(zone, cap=300), 0.5)
    assert short.undecided > 0.9
    assert short.reject <= 0.001
    test = EquivalenceTest(zone, cap=10)
    for hit in [True, False] * 5:
        test.observe(hit)
    assert test.decision is Decision.UNDECIDED


def test_nothing_after_the_decision_changes_it():
    test = EquivalenceTest(tolerated(0.5, 0.1))
    while test.decision is Decision.OPEN:
        test.observe(True)
    assert test.decision is Decision.REJECT
    for _ in range(5000):
        test.observe(False)
    assert test.decision is Decision.REJECT


@pytest.mark.parametrize("true_arm", ["v1", "v2"])
def test_a_canary_of_one_percent_does_not_pass_when_all_go_one_way(true_arm):
    test = SplitTest({"v1": 99, "v2": 1})
    while test.decision is Decision.OPEN:
        test.observe(true_arm)
    assert test.decision is Decision.REJECT


def test_no_bound_leaves_the_interval():
    for percent in range(1, 100):
        for tolerance in (None, 0.01, 0.05, 0.1, 0.3):
            zone = tolerated(percent / 100, tolerance)
            assert 0 <= zone.low < zone.share < zone.high <= 1
    assert tolerated(0.01, 0.05).low == pytest.approx(0.005)
    assert tolerated(0.01, 0.05).high == pytest.approx(0.02)
    assert tolerated(0.99).low == pytest.approx(0.98)
    with pytest.raises(ValueError, match="no two sides"):
        tolerated(0.0)


def split_of(weights, true_shares, seed, **options):
    draw = random.Random(seed)
    test = SplitTest(weights, **options)
    arms, shares = list(true_shares), list(true_shares.values())
    while test.decision is Decision.OPEN:
        test.observe(draw.choices(arms, shares)[0])
    return test


def test_with_several_arms_the_error_is_shared_out():
    weights = {"v1": 50, "v2": 30, "v3": 20}
    test = SplitTest(weights, tolerance=0.1)
    assert [t.alpha for t in test.tests.values()] == [0.001 / 3] * 3
    per_arm = [characteristics(t, t.zone.share).reject for t in test.tests.values()]
    assert sum(per_arm) <= 0.001
    assert all(split_of(weights, weights, seed, tolerance=0.1).decision is Decision.ACCEPT for seed in range(30))
    swapped = {"v1": 30, "v2": 50, "v3": 20}
    assert all(split_of(weights, swapped, seed, tolerance=0.1).decision is Decision.REJECT for seed in range(30))


def test_an_arm_of_weight_zero_and_an_undeclared_one_reject_at_their_first_hit():
    for stray in ("v3", "v9"):
        test = SplitTest({"v1": 50, "v2": 50, "v3": 0})
        test.observe("v1")
        assert test.observe(stray) is Decision.REJECT
        assert {r.arm: r.hits for r in test.report()}[stray] == 1


def test_all_for_one_arm_waits_until_a_share_of_the_tolerance_would_have_shown():
    test = SplitTest({"v1": 100, "v2": 0}, tolerance=0.05)
    for _ in range(134):
        assert test.observe("v1") is Decision.OPEN
    assert test.observe("v1") is Decision.ACCEPT  # 0.95**135 < 0.001
