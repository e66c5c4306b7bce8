"""A slow link is proved by echoes: each property that was asked for is seen, and none is when it is not there."""

import inspect
import json
import shlex
import subprocess
import sys

import pytest
from fault_lab import MACHINES, TOPOLOGY, fault

from testbed.faults import echoes, slow
from testbed.faults.slow import Seen, judge, large_for, requests_for, speed_of
from testbed.plan.faults import NothingToBreak, actions_of
from testbed.plan.guestfaults import Shape

RESPONDER = """
import random, struct, threading, time
chance = random.Random(7)
link = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
free_at = [0.0]

def answer(body):
    rest = b"\\0\\0\\0\\0" + body
    out.sendto(b"\\0\\0" + struct.pack("!H", checksum(rest)) + body, ("127.0.0.1", 0))

def serve():
    while True:
        packet = link.recv(2048)
        if packet[20] != 8:
            continue
        body, drawn = packet[24:], chance.random() * 100
        wait = SHAPE.get("delay", 0) + chance.uniform(-1, 1) * SHAPE.get("jitter", 0)
        if drawn < SHAPE.get("loss", 0):
            continue
        if drawn < SHAPE.get("reorder", 0):
            wait = 0.0
        if rate := SHAPE.get("rate"):
            free_at[0] = max(free_at[0], time.monotonic()) + (len(packet) + 14) / rate
            wait += free_at[0] - time.monotonic()
        for _ in range(2 if drawn < SHAPE.get("duplicate", 0) else 1):
            if wait > 0:
                threading.Timer(wait, answer, [body]).start()
            else:
                answer(body)

threading.Thread(target=serve, daemon=True).start()
"""


def seen(does, shape):
    """What the program sees of a link that does what it does, when it is to prove ``shape``."""
    asked = {
        "to": ["127.0.0.1"],
        "count": requests_for(shape),
        "interval": 0.005,
        "burst": large_for(shape),
        "wait": 3.0 if not does.get("loss") else 1.0,
    }
    program, last = inspect.getsource(echoes).rsplit("\nif __name__", 1)
    text = f"{program}\nSHAPE = {does!r}\n{RESPONDER}\nif __name__{last}"
    unshare = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c"]
    script = 'ip link set lo up; echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all; exec "$@"'
    argv = [*unshare, script, "-", sys.executable, "-IS", "-", json.dumps(asked)]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    answers = [(number, seconds) for number, seconds, _ in found["answers"]]
    return Seen(asked["count"], answers, speed_of([came for _, _, came in found["burst"]]))


SHAPES = [
    {"delay": 0.05},
    {"delay": 0.1, "jitter": 0.08},
    {"loss": 20.0},
    {"duplicate": 10.0},
    {"delay": 0.1, "reorder": 25.0},
    {"rate": 65536.0},
    {"delay": 0.02, "rate": 131072.0},
]


@pytest.mark.parametrize("does", SHAPES, ids=lambda d: " ".join(f"{k} {v:g}" for k, v in d.items()))
def test_a_property_that_is_there_is_seen_and_one_that_is_not_is_not(does):
    shape = Shape(**does)
    held = judge(shape, seen(does, shape), free=1e7)
    assert held.held, held.words
    for name in does.keys() & {"loss", "duplicate", "reorder"}:  # a busy host is slow by itself: see below
        without = {k: v for k, v in does.items() if k != name}
        loose = judge(shape, seen(without, shape), free=1e7)
        assert not loose.held, (name, loose.words)


def quick(count, missing=0):
    return [(n, 0.002) for n in range(count - missing)]


def test_what_is_not_slow_enough_or_all_the_same_proves_no_delay_and_no_jitter():
    same = Seen(20, [(n, 0.102) for n in range(20)])
    assert judge(Shape(delay=0.1), same).held
    assert not judge(Shape(delay=0.2), same).held
    assert not judge(Shape(delay=0.1, jitter=0.02), same).held
    assert not judge(Shape(delay=0.1, jitter=0.02), Seen(20, [*same.answers[:18], (18, 0.9), (19, 0.9)])).held
    assert judge(Shape(delay=0.1, jitter=0.02), Seen(20, [(n, 0.092 + n / 1e3) for n in range(20)])).held


def test_a_loss_is_proved_by_the_queues_own_count_too():
    shape = Shape(loss=50)
    assert judge(shape, Seen(20, quick(20, 9), dropped=[9])).held
    assert not judge(shape, Seen(20, quick(20, 9), dropped=[0])).held  # lost elsewhere
    assert not judge(Shape(loss=50, ways=2), Seen(20, quick(20, 9), dropped=[9, 0])).held  # one way only


def test_a_link_that_loses_all_lets_nothing_through():
    assert judge(Shape(loss=100, delay=0.1), Seen(20, [], dropped=[20])).held
    assert not judge(Shape(loss=100), Seen(20, quick(1), dropped=[19])).held


def test_both_ways_delay_twice():
    assert not judge(Shape(delay=0.05, ways=2), Seen(20, [(n, 0.052) for n in range(20)])).held
    assert judge(Shape(delay=0.05, ways=2), Seen(20, [(n, 0.102) for n in range(20)])).held


def test_a_rate_is_none_where_the_link_was_no_faster():
    slow = Seen(20, quick(20), speed=60_000.0)
    assert judge(Shape(rate=65536.0), slow, free=1e7).held
    assert not judge(Shape(rate=65536.0), slow, free=61_000.0).held
    assert not judge(Shape(rate=65536.0), Seen(20, quick(20), speed=200_000.0), free=1e7).held
    assert not judge(Shape(rate=65536.0), Seen(20, quick(20), speed=0.0), free=1e7).held


def test_a_link_on_which_nothing_answers_proves_nothing():
    assert not judge(Shape(delay=0.05), Seen(20, [])).held


@pytest.mark.parametrize(
    ("shape", "count"),
    [(Shape(delay=1), 20), (Shape(loss=1), 917), (Shape(loss=100), 20), (Shape(duplicate=0.01), 3000)],
)
def test_rare_things_need_many_echoes(shape, count):
    assert requests_for(shape) == count


TC = """qdisc netem 8001: root refcnt 2 limit 10000 delay 60ms  5ms loss 5%
 Sent 5172 bytes 43 pkt (dropped 2, overlimits 0 requeues 0)
 backlog 0b 0p requeues 0
qdisc ingress ffff: parent ffff:fff1 ----------------
 Sent 100 bytes 9 pkt (dropped 7, overlimits 0 requeues 0)
 backlog 0b 0p requeues 0
"""


def test_a_queue_that_is_gone_proves_nothing(monkeypatch):
    [action] = actions_of(fault("slow-link", "one", loss=30), MACHINES, TOPOLOGY)
    said = json.dumps({"to": "x", "answers": [[n, 0.002, 0.1] for n in range(0, 26, 2)], "burst": []})
    monkeypatch.setattr(slow, "in_guest", lambda *_: (0, f"{said}\n{TC}"))
    proof = slow.SlowGrip(action, None).prove()
    assert proof.held and "13 lost, 2 dropped by a queue" in proof.words
    monkeypatch.setattr(slow, "in_guest", lambda *_: (0, f"{said}\nqdisc noqueue 0: root refcnt 2\n"))
    assert not slow.SlowGrip(action, None).prove().held


def test_both_ways_is_shaped_on_arrival_too():
    [one] = actions_of(fault("slow-link", "one", delay="50ms", rate=10), MACHINES, TOPOLOGY)
    [both] = actions_of(fault("slow-link", "one", delay="50ms", bothWays=True), MACHINES, TOPOLOGY)
    assert "ifb" not in one.begin + one.end and "rate 81920bit" in one.begin
    assert both.begin.count("netem limit") == 2 and "ip link del testbed-ifb" in both.end
    assert [str(a) for a in both.others] == ["10.78.0.11", "10.78.0.12"]
    for script in (both.begin, both.end):
        assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_machine_that_is_alone_has_no_link_that_could_be_slow():
    with pytest.raises(NothingToBreak, match="no other machine"):
        actions_of(fault("slow-link", "one", delay="50ms"), {"one": MACHINES["one"]}, TOPOLOGY)


TWO_HOSTS = """
modprobe() { :; }
ip link set lo up
unshare --net sleep 60 & peer=$!
trap "kill $peer" EXIT
until [ "$(readlink /proc/$peer/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add eth1 type veth peer name far netns $peer
ip addr add 10.99.0.1/24 dev eth1; ip link set eth1 up
nsenter -t $peer -n ip addr add 10.99.0.2/24 dev far; nsenter -t $peer -n ip link set far up
"""


def test_what_arrives_passes_a_queue_of_its_own_until_the_fault_is_undone():
    """The scripts as they are, but for a queue that more hosts' kernels have than netem."""
    [action] = actions_of(fault("slow-link", "one", rate=64, bothWays=True), MACHINES, TOPOLOGY)
    shape = Shape(rate=64 * 1024.0, ways=2)
    begin = action.begin.replace("netem limit 10000 rate 524288bit", "tbf rate 524288bit burst 3000 latency 5s")
    assert begin.count("tbf") == 2
    asked = {"to": ["10.99.0.2"], "count": 0, "interval": 0, "burst": large_for(shape), "wait": 3.0}
    probe = (
        f"{shlex.join([sys.executable, '-IS', '-', json.dumps(asked)])} <<'END'\n{inspect.getsource(echoes)}\nEND\n"
    )
    look = "tc -s qdisc show dev testbed-ifb | grep Sent; ip link show testbed-ifb >/dev/null 2>&1 || echo gone"
    script = f"{TWO_HOSTS}{probe}({begin})\n{probe}{look}\n({begin}) && echo again\n({action.end})\n({action.end})\n{probe}"
    unshare = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", f"{script}{look} 2>/dev/null"]
    done = subprocess.run(unshare, capture_output=True, text=True, check=False, timeout=60)
    if "Unknown device type" in done.stderr or "unshare" in done.stderr:
        pytest.skip(done.stderr)
    free, slow, sent, again, after, gone = done.stdout.splitlines()
    speeds = [speed_of([came for _, _, came in json.loads(s)["burst"]]) for s in (free, slow, after)]
    assert speeds[0] > 4 * shape.rate and speeds[2] > 4 * shape.rate, (speeds, done.stderr)
    assert judge(shape, Seen(0, [(0, 0.1)], speeds[1]), speeds[0]).held, speeds
    assert int(sent.split()[1]) > large_for(shape) * echoes.LARGE
    assert (again, gone) == ("again", "gone")
