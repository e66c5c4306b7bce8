"""Three minutes of random faults: everything lost has a cause, strangers stay out, and nothing is left behind."""

import json

import pytest
from commands import SHARED, cli

from testbed.faults import network
from testbed.faults.breaking import Breaker
from testbed.faults.leftovers import leftovers
from testbed.model.fault import Fault
from testbed.waiting import NotYet, wait_until
from testbed.workflows.loading import load_lab


@pytest.fixture(scope="module")
def lab(bookinfo):
    with load_lab(SHARED).closing() as made:
        yield made


def test_random_faults_are_lived_through_and_leave_nothing(lab, tmp_path):
    arguments = ("verify", "-i", SHARED, "--chaos", "--seed", "1", "--for", "3m", "--json")
    told = json.loads(cli(*arguments, "--evidence", str(tmp_path), limit=900))
    assert told["verdict"] == "PASS"
    assert told["left_behind"] == []
    [found] = told["under_faults"]
    assert found["unexplained"] == 0
    assert found["requests"] == 8 * 180
    assert found["proved"] >= 0.9 * found["faults"] > 5
    assert "--seed 1 --for 180s" in told["replay"]
    assert Breaker(lab).standing() == ()
    assert network.tables(lab) == ()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"kind": "cpu-starvation", "target": "app-3"}, "the unit testbed-fault-hog.service"),
        ({"kind": "slow-link", "target": "app-3", "delay": "20ms"}, "its link is shaped"),
        ({"kind": "disk-full", "target": "app-3"}, "the file /var/tmp/testbed-fault.fill"),
        ({"kind": "clock-jump", "target": "app-3", "by": "1h"}, "its clock is off by 3"),
        ({"kind": "clock-drift", "target": "app-3", "drift": 5}, "its clock ticks 10500 us in place of 10000"),
        ({"kind": "link-down", "target": "app-3"}, "its mesh NIC has no carrier"),
        ({"kind": "disk-stall", "target": "app-3"}, "1 bytes a second are written to its disk at most"),
        ({"kind": "memory-pressure", "target": "app-3"}, "its balloon leaves it"),
        ({"kind": "sidecar-hang", "target": "reviews-v2"}, "the process of testbed-sidecar@reviews-v2 is stopped"),
        ({"kind": "service-kill", "target": "reviews-v2"}, "the unit testbed-program@reviews-v2 is inactive"),
        ({"kind": "certificate-expired", "target": "reviews-v2"}, "the certificate put by in"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_what_a_fault_leaves_behind_is_found(lab, made, said):
    """While it stands it is exactly that."""
    assert leftovers(lab) == ()
    with Breaker(lab).breaking(Fault.model_validate(made)):
        found = leftovers(lab)
    assert any(said in line for line in found), found
    assert any("the note of a fault" in line for line in found), found

    def gone():  # what a stalled disk had to write for its proof is written first
        if left := leftovers(lab):
            raise NotYet(str(left))

    wait_until("the end of what was left", gone, limit=20)
