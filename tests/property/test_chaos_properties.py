"""Random schedules are replayable and free of conflicts; a failing one shrinks to what makes it fail."""

import pytest
from fault_lab import MACHINES, TOPOLOGY, fault
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.plan.chaos import schedule, shrink
from testbed.plan.faults import actions_of, conflict

SEEDS = st.integers(0, 2**32)


def made(seed, length=180.0):
    return schedule(seed, length, MACHINES, TOPOLOGY, spared=["three"])


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(60, 900))
def test_a_schedule_fits_its_time_spares_who_shall_be_spared_and_has_no_conflict(seed, length):
    faults = made(seed, length)
    spans = [(f.at, f.at + (f.duration or 0.1), actions_of(f, MACHINES, TOPOLOGY)) for f in faults]
    for start, end, actions in spans:
        assert start >= 5 and end <= length - 29
        assert all(a.node != "three" for a in actions)
    for i, (start, end, actions) in enumerate(spans):
        for other_start, other_end, others in spans[:i]:
            if start < other_end and other_start < end:
                assert conflict(actions, others) == ""


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_same_seed_gives_the_same_schedule(seed):
    assert made(seed) == made(seed)


def test_other_seeds_give_other_schedules_of_many_kinds():
    several = [made(seed, 600.0) for seed in range(8)]
    assert len(set(several)) == 8
    assert len({f.kind for faults in several for f in faults}) >= 12


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 24), st.data())
def test_shrinking_keeps_exactly_the_faults_that_matter(count, data):
    faults = [fault("freeze", "one", at=f"{i}s") for i in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(faults).map(lambda f: f.at), min_size=1, max_size=3))
    asked = []

    def fails(some):
        asked.append(some)
        return guilty <= {f.at for f in some}

    assert {f.at for f in shrink(faults, fails, most=10_000)} == guilty
    assert len(asked) <= 4 * count * 3 + 8


def test_shrinking_stops_when_it_has_asked_enough():
    faults = [fault("freeze", "one", at=f"{i}s") for i in range(30)]
    asked = []
    shrink(faults, lambda some: asked.append(some) or False, most=7)
    assert len(asked) == 7


def test_there_has_to_be_something_to_break_and_time_for_it():
    with pytest.raises(ValueError, match="45 s"):
        made(1, 30.0)
    with pytest.raises(ValueError, match="a machine"):
        schedule(1, 90.0, MACHINES, TOPOLOGY, spared=list(MACHINES))
