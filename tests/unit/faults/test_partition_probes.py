"""A partition proves itself from a machine of its own side, which has to be there to do it."""

import pytest
from fault_lab import MACHINES, TOPOLOGY, fault

from testbed.faults.breaking import _mute
from testbed.plan.faults import actions_of


def plan(kind, *target, **options):
    return actions_of(fault(kind, *target, **options), MACHINES, TOPOLOGY)


@pytest.mark.parametrize("kind", ["freeze", "power-off", "reset", "restart", "crash", "disk-errors"])
def test_a_partition_waits_for_the_machine_that_has_to_prove_it(kind):
    silence = plan("partition", "reviews-v1", peer="two")
    assert "the machine of one is broken already" in _mute(silence, plan(kind, "one"))
    assert _mute(silence, plan(kind, "two")) == ""


def test_what_leaves_a_machine_able_to_send_is_in_no_partitions_way():
    silence = plan("partition", "reviews-v1", peer="two")
    assert _mute(silence, [*plan("link-down", "one"), *plan("cpu-starvation", "one"), *silence]) == ""
    assert _mute(plan("freeze", "one"), plan("freeze", "one")) == ""
