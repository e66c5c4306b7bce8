"""Lasting damage: what proxies hold after faults, against what they held before."""

import pytest

from testbed.scenarios.holdings import Holding, damage, under_way
from testbed.traffic import Sample

MIB = 1024**2
POOL = "cluster.outbound|9080||reviews.upstream_cx_active"


def held(connections=2, memory=20 * MIB):
    return {"client": Holding({POOL: connections}, memory)}


def sample(sent, took):
    return Sample(0, 0, 200, sent, took, 1, {}, "", "")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (held(), ""),
        (held(connections=26), ""),  # ten at once: each may have made two
        (held(connections=27), f"client has 27 connections ({POOL}), 2 before, with 10 requests at once"),
        (held(memory=46 * MIB), ""),
        (held(memory=47 * MIB), "client holds 47 MiB of memory, 20 before"),
    ],
)
def test_a_proxy_may_keep_what_its_traffic_needed_and_no_more(after, words):
    assert damage(held(), after, 10) == words


def test_requests_under_way_at_once_are_those_whose_times_overlap():
    assert under_way([]) == 0
    assert under_way([sample(0, 1), sample(1, 1)]) == 1
    assert under_way([sample(0, 3), sample(1, 3), sample(2, 0.5), sample(5, 1)]) == 3
