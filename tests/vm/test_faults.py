"""Faults take hold of real machines, are seen on the wire, and go away again, also after a kill -9."""

import json
import os
import signal
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import SHARED, cli, running

from testbed.errors import LabError
from testbed.faults import network
from testbed.faults.breaking import Breaker
from testbed.hypervisor.breaking import DomainBreaker
from testbed.lab.capture import capture
from testbed.model.fault import Fault
from testbed.waiting import NotYet, wait_until
from testbed.workflows.loading import load_lab

NODE, WORKLOAD, OTHER = "app-3", "reviews-v2", "ratings-v1"
GATEWAY, NODE_PATH = "http://127.0.0.1:18080", "/login"  # login runs on it, too


@pytest.fixture(scope="module")
def lab(bookinfo):
    with load_lab(SHARED).closing() as made:
        yield made


@pytest.fixture
def breaker(lab):
    made = Breaker(lab)
    yield made
    made.clear()
    assert made.standing() == ()
    assert network.tables(lab) == ()


def fault(kind, target=NODE, **options):
    return Fault.model_validate({"kind": kind, "target": target, **options})


@pytest.mark.parametrize(
    "made",
    [
        fault("freeze"),
        fault("link-down"),
        fault("link-flap", period="400ms"),
        fault("partition", WORKLOAD, peer=OTHER),
        fault("partition", "app-4", peer=NODE, oneWay=True),
        fault("slow-link", delay="60ms", jitter="5ms"),
        fault("slow-link", delay="60ms", reorder=25, duplicate=10),
        fault("slow-link", loss=5, rate=256),
        fault("slow-link", delay="40ms", loss=20, bothWays=True),
        fault("disk-stall"),
        fault("disk-slow", rate=16),
        fault("disk-full"),
        fault("disk-errors"),
        fault("restart"),
        fault("memory-pressure"),
        fault("cpu-starvation"),
        fault("clock-jump", by="1h"),
        fault("clock-drift", drift=-5),
        fault("partition", WORKLOAD, peer=OTHER, port=9080),
        fault("sidecar-hang", WORKLOAD),
        fault("sidecar-kill", WORKLOAD),
        fault("sidecar-restart", WORKLOAD),
        fault("service-hang", WORKLOAD),
        fault("service-kill", WORKLOAD),
        fault("certificate-foreign", WORKLOAD),
        fault("certificate-expired", WORKLOAD),
    ],
    ids=lambda f: f.title,
)
def test_a_fault_proves_that_it_took_hold_and_goes(breaker, made):
    with breaker.breaking(made) as held:
        assert held.proof.held, held.proof.words
        assert [s.id for s in breaker.standing()] == [held.id]
        assert held.began <= held.bit
    assert held.bit <= held.ended <= held.well
    breaker.settle([held])


def test_a_frozen_machine_answers_nothing_on_the_wire(lab, breaker):
    """Seen in a capture on its tap: what is sent to it arrives, and nothing comes back until it thaws."""
    target = lab.topology.workload(WORKLOAD)

    def knock(count):
        script = f"for i in $(seq {count}); do busybox nc -w 1 {target.address} 15021 </dev/null; done; true"
        lab.connection("app-4").run(
            ["ip", "netns", "exec", OTHER, "setpriv", "--reuid", "1337", "sh", "-c", script]
        )

    def seen(during):
        with capture(lab, NODE) as file:
            during()
            text = subprocess.run(
                ["tcpdump", "-nn", "-r", file], capture_output=True, text=True, check=False
            ).stdout
        lines = [line for line in text.splitlines() if ".15021" in line]
        return sum(f"> {target.address}." in line for line in lines), sum(
            f"IP {target.address}." in line for line in lines
        )

    to_it, from_it = seen(lambda: knock(1))
    assert to_it > 0 and from_it > 0

    def frozen():
        with breaker.breaking(fault("freeze")):
            knock(2)

    assert seen(frozen)[0] >= 2
    # what it answers after the thaw is in that capture too; while it is frozen there must be nothing
    with breaker.breaking(fault("freeze")):
        to_it, from_it = seen(lambda: knock(2))
        assert to_it >= 2 and from_it == 0


def test_what_is_broken_already_is_not_broken_again(breaker):
    breaker.make(fault("link-down"))
    with pytest.raises(LabError, match="the link of app-3 is broken already"), breaker.breaking(fault("link-flap")):
        pass
    with pytest.raises(LabError, match="broken already"), breaker.breaking(fault("freeze")):
        pass
    with breaker.breaking(fault("cpu-starvation")) as other:
        assert other.proof.held
    assert [m.fault.kind for m in breaker.clear()] == ["link-down"]


def test_management_is_out_of_reach_of_every_partition(lab, breaker):
    nodes = [n.name for n in lab.inventory.nodes]
    with breaker.breaking(fault("partition", nodes[:3], peer=nodes[3:])):
        for node in nodes:
            assert lab.connection(node).run(["true"], limit=20).status == 0


def test_a_partition_from_a_machine_that_is_dead_proves_itself(lab, breaker):
    """Whoever does not know its neighbour any more sends no packet, only the question where it is."""
    with breaker.breaking(fault("freeze")):
        lab.connection("app-4").run(["ip", "-n", OTHER, "neigh", "flush", "all"])
        with breaker.breaking(fault("partition", OTHER, peer=NODE, oneWay=True)) as held:
            assert held.proof.held, held.proof.words


def test_the_next_command_mends_what_a_killed_one_broke(lab):
    breaker = Breaker(lab)
    with running("fault", "freeze", NODE, "--for", "5m", "-i", SHARED) as command:

        def paused():
            power = DomainBreaker(lab.hypervisor()).power(NODE)
            if power != "paused":
                raise NotYet(f"{power}: {command.poll()}")

        wait_until("the machine is frozen", paused, limit=60)
        assert not breaker.standing()[0].orphaned
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
    assert breaker.standing()[0].orphaned
    cli("status", "-i", SHARED, "--json")
    assert breaker.standing() == ()
    assert DomainBreaker(lab.hypervisor()).power(NODE) == "running"


def test_a_machine_that_lost_its_power_comes_back_and_costs_nobody_a_request(lab):
    """The gateway has connections to it from before, which are dead and which it can't know to be dead."""
    answers(NODE_PATH, 8)
    told = json.loads(cli("fault", "power-off", NODE, "--for", "1s", "-i", SHARED, "--json"))
    assert told["held"] and told["seconds_to_be_well"] > 1
    answers(NODE_PATH, 8)
    cli("fault", "list", "-i", SHARED)
    assert json.loads(cli("status", "-i", SHARED, "--json"))["nodes"][NODE]["answers"]


def answers(path, count):
    """So many at once, so that the gateway has so many connections; 503 raises."""
    with ThreadPoolExecutor(count) as pool:
        for status in pool.map(lambda _: urllib.request.urlopen(GATEWAY + path, timeout=30).status, range(count)):
            assert status == 200
