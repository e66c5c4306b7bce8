"""A plan is made from two values and leaves its executor no choice."""

import threading
import time
from dataclasses import replace

import pytest

from testbed.errors import LabError
from testbed.lab.executor import StepState, execute
from testbed.plan import (
    ObservedLab,
    ObservedMachine,
    Plan,
    Step,
    WantedLab,
    WantedMachine,
    plan_down,
    plan_restore,
    plan_up,
)
from testbed.plan.steps import DefineNetwork, Stage
from testbed.waiting import Cancelled

WANTED = WantedLab(
    id="lab",
    private_hypervisor=True,
    networks={"management": "m1", "mesh": "s1"},
    machines={"left": WantedMachine("l1", "w1"), "right": WantedMachine("r1", "w2")},
    forwards={"gateway": 18080},
)
THERE = ObservedLab(
    hypervisor=True,
    image=True,
    shared=True,
    networks={"management": ("m1", True), "mesh": ("s1", True)},
    machines={
        "left": ObservedMachine("l1", True, True, "w1"),
        "right": ObservedMachine("r1", True, True, "w2"),
    },
    forwards={"gateway": 18080},
    mesh_in_force=True,
)


def names(plan):
    return [s.name for s in plan]


def machines(**changes):
    return replace(THERE, machines={**THERE.machines, **changes})


def test_nothing_to_do_is_an_empty_plan():
    assert not plan_up(WANTED, THERE)


def test_from_nothing_every_step_comes_after_what_it_needs():
    plan = plan_up(WANTED, ObservedLab())
    assert names(plan)[0] == "hypervisor"
    steps = {s.name: s for s in plan}
    assert steps["create:left"].needs == {"hypervisor", "image", "shared-disk"}
    assert steps["start:left"].needs == {"hypervisor", "create:left", "network:management", "network:mesh"}
    assert steps["mesh"].needs == {"workloads", "boot:left", "boot:right"}
    assert steps["forward:gateway"].needs == {"hypervisor", "mesh"}


def test_each_step_says_what_it_does_how_it_is_undone_and_when_it_is_done():
    for step in [*plan_up(WANTED, ObservedLab()), *plan_down(THERE)]:
        assert step.does and step.undone_by and step.done_when


def test_a_machine_made_from_something_else_is_made_anew_and_the_other_is_left_alone():
    plan = plan_up(WANTED, machines(left=ObservedMachine("old", True, True, "w1")))
    assert names(plan) == ["remove:left", "create:left", "start:left", "boot:left", "workloads", "mesh"]


def test_a_node_that_left_the_inventory_is_removed():
    assert names(plan_up(WANTED, machines(gone=ObservedMachine("x", True)))) == ["remove:gone"]


def test_a_machine_that_is_off_is_started_and_its_disks_are_kept():
    plan = plan_up(WANTED, machines(left=ObservedMachine("l1", False)))
    assert names(plan) == ["start:left", "boot:left", "workloads", "mesh"]


def test_a_running_machine_that_does_not_answer_is_waited_for():
    assert names(plan_up(WANTED, machines(left=ObservedMachine("l1", True)))) == ["boot:left", "workloads", "mesh"]


def test_changed_workloads_are_deployed_to_their_node_only():
    plan = plan_up(WANTED, machines(left=ObservedMachine("l1", True, True, "old")))
    assert next(s for s in plan if s.name == "workloads").action.nodes == ("left",)


def test_a_mesh_that_is_not_in_force_is_applied():
    assert names(plan_up(WANTED, replace(THERE, mesh_in_force=False))) == ["mesh"]


def test_a_missing_forwarder_is_started_and_one_on_another_port_is_replaced():
    assert names(plan_up(WANTED, replace(THERE, forwards={}))) == ["forward:gateway"]
    moved = plan_up(WANTED, replace(THERE, forwards={"gateway": 9}))
    assert names(moved) == ["stop-forward:gateway", "forward:gateway"]


def test_any_free_port_is_content_with_the_one_that_is_there():
    assert not plan_up(replace(WANTED, forwards={"gateway": 0}), THERE)


def test_a_system_daemon_is_neither_started_nor_ended():
    assert "hypervisor" not in names(plan_up(replace(WANTED, private_hypervisor=False), ObservedLab()))
    assert "stop-hypervisor" not in names(plan_down(replace(THERE, hypervisor=False)))


def test_down_ends_machines_before_networks_before_the_daemon_before_files():
    plan = plan_down(THERE)
    steps = {s.name: s for s in plan}
    assert {"remove:left", "remove:right"} <= steps["remove-network:mesh"].needs
    assert "remove-network:mesh" in steps["stop-hypervisor"].needs
    assert "stop-hypervisor" in steps["files"].needs


def step(name, *needs):
    return Step(name, DefineNetwork(name), "does", "undone", "done", Stage.HOST, frozenset(needs))


def test_a_plan_refuses_cycles_strangers_and_twins():
    with pytest.raises(ValueError, match="wait for each other"):
        Plan((step("a", "b"), step("b", "a")))
    with pytest.raises(ValueError, match="unknown"):
        Plan((step("a", "x"),))
    with pytest.raises(ValueError, match="two steps"):
        Plan((step("a"), step("a")))


def run(plan, perform):
    events = []
    return events, lambda: execute(plan, perform, lambda e: events.append((e.step.name, e.state)))


def test_steps_run_after_their_needs_and_side_by_side_where_they_may():
    barrier = threading.Barrier(2, timeout=5)
    order = []

    def perform(action, _cancel):
        if action.role in ("b", "c"):
            barrier.wait()  # would time out if they ran one after the other
        order.append(action.role)

    events, go = run(Plan((step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))), perform)
    assert set(go()) == {"a", "b", "c", "d"}
    assert (order[0], order[-1]) == ("a", "d")
    assert events[-1] == ("d", StepState.DONE)


def test_the_first_error_stops_new_steps_calls_running_ones_off_and_is_raised():
    began = threading.Event()

    def perform(action, cancel):
        if action.role == "bad":
            began.wait(5)
            raise LabError("bad", "fail", "as told")
        if action.role == "slow":
            began.set()
            if cancel.wait(60):
                raise Cancelled("slow")
        assert action.role != "never"

    events, go = run(Plan((step("slow"), step("bad"), step("never", "bad"))), perform)
    start = time.monotonic()
    with pytest.raises(LabError, match="as told"):
        go()
    assert time.monotonic() - start < 30
    assert ("bad", StepState.FAILED) in events
    assert ("slow", StepState.SKIPPED) in events
    assert "never" not in {name for name, _ in events}


def test_a_lab_at_hand_is_restored_and_not_built():
    plan = plan_up(WANTED, ObservedLab(snapshot=True))
    assert names(plan) == [
        "hypervisor", "snapshot", "network:management", "network:mesh", "restore:left", "restore:right", "resume",
        "thaw:left", "thaw:right", "mesh", "forward:gateway", "edges",
    ]  # fmt: skip
    steps = {s.name: s for s in plan}
    assert steps["restore:left"].needs == {"hypervisor", "snapshot", "network:management", "network:mesh"}
    assert steps["resume"].needs == {"restore:left", "restore:right"}
    assert steps["edges"].needs == {"mesh", "forward:gateway"}


def test_a_lab_at_hand_is_of_no_use_when_a_machine_can_stay():
    observed = replace(machines(left=ObservedMachine("old", True, True, "w1")), snapshot=True)
    assert "restore:left" not in names(plan_up(WANTED, observed))


def test_a_restore_replaces_every_machine_and_removes_none_before_the_snapshot_was_checked():
    plan = plan_restore(WANTED, machines(gone=ObservedMachine("x", True)))
    assert names(plan) == [
        "snapshot", "remove:gone", "restore:left", "restore:right", "resume", "thaw:left", "thaw:right", "mesh", "edges",
    ]  # fmt: skip
    assert {s.name: s.needs for s in plan}["remove:gone"] == {"snapshot"}
