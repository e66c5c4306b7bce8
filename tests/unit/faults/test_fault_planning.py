"""What a fault means on the lab's machines, what can't stand together, and what is refused before anything is done."""

import re
import shutil
import subprocess
from ipaddress import IPv4Address

import pytest
from fault_lab import MACHINES, TOPOLOGY, fault
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from testbed.faults.network import ruleset
from testbed.faults.proof import Proof, together
from testbed.host.probes import faults
from testbed.model.fault import OPTIONS, Fault, FaultKind
from testbed.plan.faults import (
    NoSuchTarget,
    NothingToBreak,
    Power,
    Silence,
    actions_of,
    conflict,
    doubled,
    nodes_of,
    parts_of,
)
from testbed.plan.guestfaults import InGuest


def plan(kind, *target, **options):
    return actions_of(fault(kind, *target, **options), MACHINES, TOPOLOGY)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("two", ("two",)),
        ("reviews", ("one", "two")),
        ("reviews/v2", ("two",)),
        ("ratings-v1", ("two",)),
        ("zone-a", ("one", "three")),
        ("r/zone-b", ("two",)),
        ("gateway", ("three",)),
    ],
)
def test_a_target_names_nodes_workloads_services_versions_and_zones(name, nodes):
    assert nodes_of([name], MACHINES, TOPOLOGY) == nodes
    assert plan("freeze", name) == tuple(Power(n, FaultKind.FREEZE) for n in nodes)


def test_a_target_that_is_nowhere_is_refused_by_name():
    with pytest.raises(NoSuchTarget, match="'nobody'"):
        plan("freeze", "nobody")
    with pytest.raises(NoSuchTarget, match="no workload or service 'zone-a'"):
        plan("sidecar-kill", "zone-a")
    with pytest.raises(NoSuchTarget, match="runs no program"):
        plan("service-kill", "client-v1")


def test_a_partition_is_made_of_addresses_of_the_mesh_and_counts_what_it_loses():
    [silence] = plan("partition", "reviews", peer="ratings")
    assert silence == Silence(
        "one",
        (IPv4Address("10.78.0.101"), IPv4Address("10.78.0.102")),
        (IPv4Address("10.78.0.103"),),
        True,
        None,
        ("reviews-v1", IPv4Address("10.78.0.103")),
    )
    text = ruleset("t", silence)
    assert "ip saddr { 10.78.0.101, 10.78.0.102 } ip daddr { 10.78.0.103 } counter drop" in text
    assert "ip saddr { 10.78.0.103 } ip daddr { 10.78.0.101, 10.78.0.102 } counter drop" in text
    asks = "arp operation request arp saddr ip { 10.78.0.103 } arp daddr ip { 10.78.0.101, 10.78.0.102 }"
    assert f"{asks} counter drop" in text


def test_a_node_stands_for_everything_on_it():
    [silence] = plan("partition", "two", peer="one", oneWay=True)
    assert silence.sources == tuple(IPv4Address(f"10.78.0.{n}") for n in (11, 102, 103))
    assert ruleset("t", silence).count("drop") == 2


def test_nothing_can_be_cut_between_two_on_one_machine():
    with pytest.raises(NoSuchTarget, match="on one machine"):
        plan("partition", "reviews-v2", peer="ratings")


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
@pytest.mark.parametrize("port", [None, 9080])
def test_nft_takes_the_rules(port):
    [silence] = plan("partition", "reviews", peer="ratings", **({"port": port} if port else {}))
    unshared = ["unshare", "--user", "--map-root-user", "--net", "nft", "-c", "-f", "-"]
    done = subprocess.run(
        unshared, input=ruleset("testbed-abc-1", silence), text=True, capture_output=True, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


OTHERS = (FaultKind.PARTITION, FaultKind.CONTROL_PLANE_KILL, FaultKind.UPGRADE)


@pytest.mark.parametrize("kind", [k for k in FaultKind if k not in OTHERS])
def test_every_script_is_one_that_a_shell_reads(kind):
    options = {
        "clock-jump": {"by": "1h"},
        "clock-drift": {"drift": 5},
        "slow-link": {"delay": "50ms", "jitter": "5ms", "loss": 1, "rate": 100},
    }
    for action in plan(kind.value, "reviews-v2", **options.get(kind.value, {})):
        if isinstance(action, InGuest):
            for script in (action.begin, action.end, action.proof):
                done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
                assert done.returncode == 0, (script, done.stderr)


@pytest.mark.parametrize(
    ("one", "other", "together_"),
    [
        (("freeze", "one"), ("freeze", "one"), False),
        (("freeze", "one"), ("freeze", "two"), True),
        (("freeze", "one"), ("link-down", "one"), False),
        (("link-down", "one"), ("cpu-starvation", "one"), True),
        (("link-down", "one"), ("link-flap", "one"), False),
        (("sidecar-kill", "reviews-v2"), ("sidecar-kill", "ratings-v1"), True),
        (("sidecar-kill", "reviews-v2"), ("sidecar-hang", "reviews-v2"), False),
        (("sidecar-kill", "reviews-v2"), ("power-off", "two"), False),
        (("disk-errors", "one"), ("link-down", "one"), False),
        (("disk-errors", "one"), ("disk-errors", "two"), True),
    ],
)
def test_what_can_stand_together(one, other, together_):
    assert (conflict(plan(*one), plan(*other)) == "") is together_
    assert (conflict(plan(*other), plan(*one)) == "") is together_


@pytest.mark.parametrize(
    ("only", "backend", "words"),
    [
        ("dns", "standalone", "the standalone mesh asks no DNS server"),
        ("control-plane", "standalone", "the standalone mesh has no control plane"),
        ("dns", "istio", "CoreDNS runs in pods"),
        ("control-plane", "istio", "istiod runs in pods.*control-plane-kill istiod"),
    ],
)
def test_no_mesh_has_a_machine_for_dns_or_its_control_plane_alone(only, backend, words):
    with pytest.raises(NothingToBreak, match=words):
        actions_of(fault("partition", "one", only=only), MACHINES, TOPOLOGY, backend)
    named = [f for f in faults.probe(backend) if f.name == f"faults: partition, only {only}"]
    assert re.search(words, named[0].detail)


def test_a_mesh_without_a_control_plane_has_none_to_kill():
    with pytest.raises(NothingToBreak, match="the standalone mesh has no control plane: proxies read files"):
        plan("control-plane-kill", "istiod")


def test_a_restart_drains_unless_told_otherwise():
    assert plan("restart", "one") == (Power("one", FaultKind.RESTART, drain=True),)
    assert plan("restart", "one", drain=False) == (Power("one", FaultKind.RESTART, drain=False),)
    assert fault("restart", "one", drain=False).title == "restart one without a drain"


def test_partitions_compose_with_everything():
    silence = plan("partition", "one", peer="two")
    assert conflict(silence, [*silence, *plan("freeze", "one")]) == ""


KINDS = st.sampled_from(
    [
        k.value
        for k in FaultKind
        if k.value not in ("partition", "clock-jump", "clock-drift", "slow-link", "control-plane-kill", "upgrade")
    ]
)
TARGETS = st.sampled_from(["one", "two", "reviews-v1", "reviews-v2", "ratings-v1"])


@given(KINDS, TARGETS, KINDS, TARGETS)
def test_conflict_is_symmetric_and_only_between_parts_of_one_machine(kind, target, other_kind, other_target):
    first, second = plan(kind, target), plan(other_kind, other_target)
    assert bool(conflict(first, second)) == bool(conflict(second, first))
    if conflict(first, second):
        assert {n for a in first for n, _ in parts_of(a)} & {n for a in second for n, _ in parts_of(a)}
    assert not doubled(first)


@given(KINDS, st.floats(0.1, 1000), st.lists(TARGETS, min_size=1, max_size=3))
def test_a_fault_survives_being_noted(kind, seconds, targets):
    made = fault(kind, *targets, **{"for": f"{seconds:.3f}s"})
    again = Fault.model_validate(made.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert again.model_dump(exclude={"duration"}) == made.model_dump(exclude={"duration"})
    assert again.duration == pytest.approx(made.duration, abs=0.001)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "explode"}, "kind"),
        ({"kind": "partition"}, "other side"),
        ({"kind": "freeze", "loss": 3}, "freeze has no loss"),
        ({"kind": "clock-jump"}, "how far"),
        ({"kind": "clock-drift"}, "how much"),
        ({"kind": "clock-drift", "drift": 11}, "less than or equal"),
        ({"kind": "partition", "peer": "two", "only": "dns"}, "peer, or only"),
        ({"kind": "slow-link"}, "needs delay"),
        ({"kind": "slow-link", "loss": 3, "jitter": "1s"}, "need a delay"),
        ({"kind": "slow-link", "loss": 101}, "less than or equal"),
        ({"kind": "freeze", "target": []}, "at least 1"),
        ({"kind": "freeze", "for": "-1s"}, "a duration such as"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        Fault.model_validate({"target": "one", **values})


def test_every_option_is_a_field():
    assert set(OPTIONS) <= set(Fault.model_fields)


def test_several_proofs_hold_only_together():
    good, bad = Proof(True, "yes"), Proof(False, "no")
    assert together([("a", good)]).held
    assert not together([("a", good), ("b", bad)]).held
    assert not together([]).held
