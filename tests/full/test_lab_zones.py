"""A cluster with an agent in each of two zones, from the mirror that TESTBED_MIRROR names: one agent is lost."""

import json

import pytest

pytestmark = pytest.mark.full

LAB = "k3s-zones"
UP_LIMIT = 2400


def test_up_passes_with_callers_in_their_own_zone(lab):
    assert lab.report["verdict"] == "PASS"
    lab.tell_memory("server", "agent-1", "agent-2", "machine")


def test_callers_of_a_lost_node_are_served_in_the_other_zone_until_its_pods_are_back(lab):
    assert lab.verdicts("cluster-node-lost", limit=2400) == {"cluster-node-lost": "PASS"}


def test_all_is_at_home_again(lab):
    lab.run("up", limit=UP_LIMIT)
    assert json.loads(lab.run("status", "--json"))["healthy"]
    assert lab.verdicts("zone-first") == {"zone-first": "PASS"}
