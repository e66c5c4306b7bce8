"""A machine that is slow or loses packets is never taken for a mesh that breaks its promise."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from commands import SHARED

from testbed.model.verdict import Outcome
from testbed.scenarios import check, find, run_scenario
from testbed.workflows.loading import load_lab
from testbed.workflows.verify import lab_under_test

CLIENT = "client-v1"
RIGHT = {"split": {"service": "reviews", "weights": {"v1": 50, "v2": 50}, "tolerance": 10}}
WRONG = {"split": {"service": "reviews", "weights": {"v1": 80, "v2": 20}, "tolerance": 10}}
REVIEWS = {"from": "client", "service": "reviews", "path": "/reviews/0", "headers": {"x-testbed-alone": "yes"}}
QUICK = {"latency": {"quantile": 0.9, "below": "5ms"}}
"""No emulated machine answers so fast, so this fails unless a machine is in the way."""


@contextmanager
def losing_packets(lab) -> Iterator[None]:
    """1% of what the client's namespace sends goes nowhere."""
    connection = lab.connection("client")
    tc = ["ip", "netns", "exec", CLIENT, "tc", "qdisc"]
    connection.run(["modprobe", "sch_netem"])
    connection.run([*tc, "add", "dev", "eth0", "root", "netem", "loss", "1%"])
    try:
        yield
    finally:
        connection.run([*tc, "del", "dev", "eth0", "root"])


@contextmanager
def hogged(lab) -> Iterator[None]:
    """Four programs on the client's machine want its one processor for themselves."""
    connection = lab.connection("client")
    spin = "while :; do :; done"
    start = f"for i in 1 2 3 4; do systemd-run -q --unit hog-$i bash -c '{spin}'; done"
    connection.run(["bash", "-c", start])
    try:
        yield
    finally:
        connection.run(["systemctl", "stop", *(f"hog-{i}" for i in range(1, 5))])


@pytest.mark.parametrize("trouble", [losing_packets, hogged])
def test_a_machine_in_trouble_is_not_a_broken_mesh(bookinfo, trouble):
    with load_lab(SHARED).closing() as lab:
        under_test = lab_under_test(lab)
        with trouble(lab):
            right = check(under_test, when=REVIEWS, expect=RIGHT)
            wrong = check(under_test, when=REVIEWS, expect=WRONG)
            slow = check(under_test, when={**REVIEWS, "requests": 200}, expect=QUICK)
            [file] = find(["timeout-retries"])
            timed = run_scenario(file, under_test)
    for record in (right, timed):
        assert record.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE), record.verdict.reason
    assert wrong.outcome is Outcome.FAIL, wrong.verdict.reason  # no machine's trouble moves weights
    assert slow.outcome is Outcome.INCONCLUSIVE, slow.verdict.reason
    assert slow.verdict.reason.startswith("the lab, not the mesh: ")
