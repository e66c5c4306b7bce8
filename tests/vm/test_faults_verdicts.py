"""A client's machine that is slow, or loses packets: the verdict never blames the mesh for it."""

import pytest
from commands import SHARED

from testbed.faults.breaking import Breaker
from testbed.model.fault import Fault
from testbed.model.verdict import Outcome
from testbed.scenarios import check
from testbed.workflows.loading import load_lab
from testbed.workflows.verify import lab_under_test

CLIENT = "client"


@pytest.fixture(scope="module")
def lab(bookinfo):
    with load_lab(SHARED).closing() as made:
        yield made


def shares(lab):
    """Exact counts and a share: what packets that are late or sent again could spoil."""
    when = {"from": "client", "service": "reviews", "path": "/reviews/0", "requests": 300, "timeout": "30s"}
    split = {"service": "reviews", "weights": {"v1": 50, "v2": 50}, "tolerance": 20}
    return check(
        lab, when=when, expect={"split": split, "status": 200, "attempts": {"service": "reviews", "each": 1}}
    )


def quickness(lab):
    """What a machine that is slow could spoil."""
    when = {"from": "client", "service": "reviews", "path": "/reviews/0", "requests": 40, "timeout": "30s"}
    return check(lab, when=when, expect={"latency": {"quantile": 0.5, "below": "60ms"}})


@pytest.mark.parametrize(
    ("trouble", "asked"), [({"kind": "slow-link", "loss": 1}, shares), ({"kind": "cpu-starvation"}, quickness)]
)
def test_a_client_in_trouble_is_no_fault_of_the_mesh(lab, trouble, asked):
    with Breaker(lab).breaking(Fault.model_validate({**trouble, "target": CLIENT})) as made:
        assert made.proof.held, made.proof.words
        record = asked(lab_under_test(lab))
    assert record.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE), record.verdict.reason
    assert record.clean
