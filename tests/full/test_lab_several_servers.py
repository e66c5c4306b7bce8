"""Three servers on machines, from the mirror that TESTBED_MIRROR names: one is lost, and the cluster goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))
from commands import COMMAND

from testbed.waiting import NotYet, wait_until

pytestmark = pytest.mark.full

LAB = "k3s-ha"
SERVERS = ("server-1", "server-2", "server-3")
API, ROUTER = "10.77.0.9", "10.78.0.9"
UP_LIMIT = 3600


def run(*words, status=0, limit=300):
    done = subprocess.run(
        [*COMMAND, words[0], "-i", LAB, *words[1:]], capture_output=True, text=True, timeout=limit, check=False
    )
    assert status is None or done.returncode == status, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def holders(address, among=SERVERS):
    return [s for s in among if run("ssh", s, "ip", "-4", "-o", "address", "show", "to", address).strip()]


@pytest.fixture(scope="module")
def lab():
    if not os.environ.get("TESTBED_MIRROR"):
        pytest.skip("TESTBED_MIRROR names no mirror with k3s and Istio")
    subprocess.run([*COMMAND, "artifacts", "pull", "-i", LAB], check=True, timeout=600)
    try:
        yield json.loads(run("up", "--json", limit=UP_LIMIT))
    finally:
        run("down", limit=120)


def test_up_passes_the_scenario_with_three_servers(lab):
    assert lab["verdict"] == "PASS"
    assert len(holders(API)) == 1
    assert len(holders(ROUTER)) == 1


def test_the_api_answers_and_takes_a_change_while_the_server_that_had_its_address_is_lost(lab, tmp_path):
    [lost] = holders(API)
    left = [s for s in SERVERS if s != lost]
    run("fault", "power-off", lost)
    try:

        def moved():
            if len(found := [*holders(API, left), *holders(ROUTER, left)]) != 2:
                raise NotYet(f"the addresses are on {found}")

        wait_until("both addresses are on servers that are left", moved, limit=60, interval=2)

        def has_istiod():
            ages = [
                run("ssh", s, "ps", "-o", "etimes=", "-C", "pilot-discovery", status=None).split() for s in left
            ]
            if not any(int(age) > 60 for found in ages for age in found):
                raise NotYet(f"seconds that istiod has run on them: {ages}")

        wait_until("istiod is on a server that is left", has_istiod, limit=600, interval=5)
        change = tmp_path / "split.yaml"
        routes = "".join(
            f"        - {{destination: {{host: echo, subset: {v}}}, weight: {w}}}\n"
            for v, w in (("v1", 90), ("v2", 10))
        )
        change.write_text(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo}\n"
            f"spec:\n  hosts: [echo]\n  http:\n    - route:\n{routes}"
        )
        run("apply", str(change), limit=600)
        assert "weight: 90" in run("applied")
    finally:
        run("fault", "clear", limit=900)


def test_the_scenario_of_a_lost_server_passes(lab):
    run("up", limit=UP_LIMIT)
    [verdict] = json.loads(run("verify", "--json", "cluster-server-lost", limit=1500))
    assert verdict["verdict"] == "PASS", verdict
