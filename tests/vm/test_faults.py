"""Faults take hold of real machines, are seen on the wire, and go away again, also after a kill -9."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from commands import SHARED, cli, running

from testbed.errors import LabError
from testbed.faults import network
from testbed.faults.breaking import Breaker
from testbed.faults.grips import CARRIER
from testbed.faults.inside import in_guest
from testbed.hypervisor.breaking import DomainBreaker
from testbed.hypervisor.machines import Power
from testbed.lab.capture import capture
from testbed.model.fault import Fault, FaultKind
from testbed.waiting import NotYet, wait_until
from testbed.workflows.loading import load_lab

NODE, WORKLOAD = "app-3", "reviews-v2"
CALLER, OTHER = "app-4", "ratings-v1"
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
        fault("slow-link", delay="20ms", loss=20, rate=256, bothWays=True),
        fault("disk-stall"),
        fault("disk-slow", rate=16),
        fault("disk-full"),
        fault("disk-errors"),
        fault("restart"),
        fault("reset"),
        fault("crash"),
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
        fault("certificate-rotated", WORKLOAD),
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


@dataclass(frozen=True)
class Seen:
    """Packets of one tap: to the target, its neighbour's questions where it is among them, and from it."""

    to: int
    back: int


def knock(lab, count, forget=False):
    """Ask the target's health port for a connection so many times, from another machine and past its sidecar.

    With ``forget`` the caller doesn't know where its neighbour is, and asks for that only.
    """
    address = lab.topology.workload(WORKLOAD).address
    script = f"for i in $(seq {count}); do busybox nc -w 1 {address} 15021 </dev/null; done; true"
    inside = ["ip", "netns", "exec", OTHER]
    if forget:
        lab.connection(CALLER).run([*inside, "ip", "neigh", "flush", "to", str(address)])
    lab.connection(CALLER).run([*inside, "setpriv", "--reuid", "1337", "sh", "-c", script])


def on_the_wire(lab, during, *nodes):
    """What was seen of the target on these machines' taps meanwhile: something on the first, or nothing after 5 s."""
    with ExitStack() as stack:
        files = [stack.enter_context(capture(lab, node, only="tcp or arp")) for node in nodes]
        during()
        seen = []
        for _ in range(10):
            # tcpdump writes when it is given a processor: what is read must have stopped growing
            time.sleep(0.5)
            before, seen = seen, [read_from(lab, file) for file in files]
            if seen == before and seen[0].to:
                break
        return seen


def read_from(lab, file):
    address, caller = lab.topology.workload(WORKLOAD).address, lab.topology.workload(OTHER).address
    # who has lost sight of its neighbour sends it nothing else
    asks = re.compile(rf"who-has {address}( \(.*\))? tell {caller},")
    text = subprocess.run(["tcpdump", "-nn", "-r", file], capture_output=True, text=True, check=True).stdout
    lines = [line for line in text.splitlines() if ".15021" in line]
    to = sum(f"> {address}." in line for line in lines) + len(asks.findall(text))
    return Seen(to, sum(f"IP {address}." in line for line in lines))


def test_a_frozen_machine_answers_nothing_on_the_wire(lab, breaker):
    """Seen in a capture on its tap: what is sent to it arrives, and nothing comes back until it thaws."""
    [well] = on_the_wire(lab, lambda: knock(lab, 1), NODE)
    assert well.to > 0 and well.back > 0

    def frozen():
        with breaker.breaking(fault("freeze")):
            knock(lab, 2)

    assert on_the_wire(lab, frozen, NODE)[0].to > 0
    # what it answers after the thaw is in that capture too; while it is frozen there must be nothing
    with breaker.breaking(fault("freeze")):
        [still] = on_the_wire(lab, lambda: knock(lab, 2), NODE)
        assert still.to > 0 and still.back == 0


@pytest.mark.parametrize("forget", [False, True], ids=["known", "forgotten"])
@pytest.mark.parametrize(
    "made", [fault("link-down"), fault("partition", WORKLOAD, peer=OTHER)], ids=lambda f: f.kind
)
def test_what_is_cut_off_is_silent_on_the_wire(lab, breaker, made, forget):
    """What the caller sends leaves its machine and is not answered; a partition loses it before the other's tap."""
    with breaker.breaking(made):
        caller, target = on_the_wire(lab, lambda: knock(lab, 2, forget), CALLER, NODE)
    assert caller.to > 0 and caller.back == 0 and target.back == 0
    assert target.to == 0 or made.kind is FaultKind.LINK_DOWN
    [well] = on_the_wire(lab, lambda: knock(lab, 1), CALLER)
    assert well.to > 0 and well.back > 0


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


def test_an_interrupted_command_mends_what_it_broke(lab):
    breaker = Breaker(lab)
    with running("fault", "link-down", NODE, "--for", "5m", "-i", SHARED) as command:

        def broken():
            if not breaker.standing():
                raise NotYet(f"nothing stands: {command.poll()}")

        wait_until("the fault is made", broken, limit=60)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
        assert command.returncode == 130
        assert b"interrupted" in said and b"Traceback" not in said
    assert breaker.standing() == ()
    assert in_guest(lab, NODE, f"cat {CARRIER}") == (0, "1")


def test_a_machine_that_lost_its_power_comes_back_and_costs_nobody_a_request(lab):
    """The gateway has connections to it from before, which are dead and which it can't know to be dead."""
    answers(NODE_PATH, 8)
    knock(lab, 1)  # a caller that does not know its neighbour asks where it is, and sends nothing else
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(cli, "fault", "power-off", NODE, "--for", "8s", "-i", SHARED, "--json")

        def off():
            if (power := DomainBreaker(lab.hypervisor()).power(NODE)) is not Power.SHUTOFF:
                raise NotYet(power)

        wait_until("the machine is off", off, limit=60)
        [caller] = on_the_wire(lab, lambda: knock(lab, 2), CALLER)
        told = json.loads(command.result())
    assert caller.to >= 2 and caller.back == 0
    assert told["held"] and told["seconds_to_be_well"] > 1
    answers(NODE_PATH, 8)
    cli("fault", "list", "-i", SHARED)
    assert json.loads(cli("status", "-i", SHARED, "--json"))["nodes"][NODE]["answers"]


def answers(path, count):
    """So many at once, so that the gateway has so many connections; 503 raises."""
    with ThreadPoolExecutor(count) as pool:
        for status in pool.map(lambda _: urllib.request.urlopen(GATEWAY + path, timeout=30).status, range(count)):
            assert status == 200
