"""Whenever `up` is killed, `up` again or `down` works, and nothing is left behind."""

import json
import random

import pytest
from commands import cli, left_behind, running, wait_for_step

SEED = 20261122
LAB = "two-nodes"


@pytest.fixture(autouse=True)
def clean():
    cli("down", "-i", LAB)
    yield
    cli("down", "-i", LAB)
    assert left_behind(LAB) == []


@pytest.mark.slow
def test_up_killed_at_any_step_is_mended_by_up_or_removed_by_down():
    chance = random.Random(SEED)
    plan = [step["name"] for step in json.loads(cli("plan", "-i", LAB, "--cold", "--json"))]
    assert len(plan) >= 10
    chance.shuffle(plan)
    for name in plan:
        if name not in [step["name"] for step in json.loads(cli("plan", "-i", LAB, "--cold", "--json"))]:
            cli("down", "-i", LAB)  # an earlier up got past it: begin again
        with running("up", "-i", LAB, "--cold", "--no-verify", "--json") as up:
            wait_for_step(LAB, name, up)
        if chance.random() < 0.4:
            cli("down", "-i", LAB)
            assert left_behind(LAB) == [], f"after a kill at {name}"
    cli("up", "-i", LAB)
    assert json.loads(cli("status", "-i", LAB, "--json"))["healthy"]
    assert "nothing to do" in cli("up", "-i", LAB)


def test_an_interrupted_up_says_so_and_exits_with_130():
    import signal

    with running("up", "-i", LAB, "--cold", "--no-verify") as up:
        wait_for_step(LAB, "boot:left", up)
        up.send_signal(signal.SIGINT)
        _, stderr = up.communicate(timeout=60)
        assert up.returncode == 130
        assert b"interrupted" in stderr and b"Traceback" not in stderr
