"""The chances that the test of medians promises hold exactly, however latencies are distributed."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.statistics import slowdown


@pytest.mark.parametrize(("before", "after"), [(4, 4), (3, 6), (6, 5)])
@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.2])
def test_each_conclusion_is_wrong_no_more_often_than_promised(before, after, level):
    """Over all ways to deal values that are alike but for the factor, which are equally likely."""
    values = [1.3**i for i in range(before + after)]
    faster = slower = ways = 0
    for chosen in combinations(range(len(values)), after):
        late = [values[i] for i in chosen]
        early = [v / 2 for i, v in enumerate(values) if i not in chosen]
        found = slowdown(early, late, 2)
        faster += found.if_slower <= level
        slower += found.if_not <= level
        ways += 1
    assert faster / ways <= level + 1e-9 and slower / ways <= level + 1e-9


def test_a_small_sample_that_is_no_slower_is_told_from_one_that_is():
    before, same = [0.010 + i / 1e4 for i in range(18)], [0.010 + i / 1e4 for i in range(24)]
    assert slowdown(before, same, 3).if_slower < 1e-3
    assert slowdown(before, [6 * s for s in same], 3).if_not < 1e-3
    between = slowdown(before, [3 * s for s in same], 3)
    assert between.if_slower > 0.01 and between.if_not > 0.01


def test_few_values_say_nothing():
    found = slowdown([1.0, 1.0], [1.0, 1.0], 5)
    assert found.if_slower > 0.1 and found.if_not == pytest.approx(1)
    with pytest.raises(ValueError, match="not empty"):
        slowdown([], [1.0], 2)


def test_equal_values_speak_for_nothing():
    found = slowdown([1.0] * 50, [2.0] * 50, 2)
    assert found.ratio == 2 and found.if_slower > 0.5 and found.if_not > 0.5


SAMPLES = st.lists(st.floats(0.001, 10), min_size=1, max_size=40)


@given(SAMPLES, SAMPLES, st.floats(1.1, 5))
def test_both_chances_are_chances_and_more_of_a_factor_is_less_of_a_slowdown(before, after, factor):
    found, wider = slowdown(before, after, factor), slowdown(before, after, 2 * factor)
    assert 0 <= found.if_slower <= 1 and 0 <= found.if_not <= 1
    assert found.if_slower + found.if_not >= 1 - 1e-9
    assert wider.if_slower <= found.if_slower + 1e-9 and wider.if_not >= found.if_not - 1e-9
