"""Faults in a cluster: which processes of a pod they take, and what is refused because it would break nothing.

The scripts run here, on processes of this host that play a pod's; `ip`, `stat` and systemd are stand-ins.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fault_lab import TOPOLOGY, fault

from testbed.model.fault import FaultKind
from testbed.model.topology import ProxyKind
from testbed.plan.chaos import schedule
from testbed.plan.faults import Machine, NoSuchTarget, NothingToBreak, Power, actions_of
from testbed.plan.podfaults import NAME_PODS, control_plane_killed, pod_broken
from testbed.waiting import NotYet, wait_until

CLUSTER = {
    "one": Machine("one", IPv4Address("10.78.0.10"), "r/zone-a", 640 << 20, "server"),
    "two": Machine("two", IPv4Address("10.78.0.11"), "r/zone-b", 640 << 20, "agent"),
    "three": Machine("three", IPv4Address("10.78.0.12"), "r/zone-a", 640 << 20),
}


def plan(kind, *target, **options):
    return actions_of(fault(kind, *target, **options), CLUSTER, TOPOLOGY, "istio")


# What is planned


def test_a_workload_in_a_pod_is_broken_in_its_pod_and_one_on_a_machine_in_its_unit():
    [pod] = plan("sidecar-kill", "reviews-v2")
    assert pod == pod_broken(FaultKind.SIDECAR_KILL, "two", "reviews-v2")
    [unit] = plan("sidecar-kill", "gateway")
    assert "systemctl kill" in unit.begin


def test_a_pod_in_ambient_mode_has_a_program_to_break_and_no_sidecar():
    pods = (replace(w, kind=ProxyKind.ZTUNNEL) if w.node == "two" else w for w in TOPOLOGY.workloads)
    ambient = replace(TOPOLOGY, workloads=tuple(pods))
    assert actions_of(fault("service-kill", "reviews-v2"), CLUSTER, ambient, "istio")
    with pytest.raises(NothingToBreak, match="reviews-v2 is a pod in ambient mode and has no sidecar"):
        actions_of(fault("sidecar-kill", "reviews-v2"), CLUSTER, ambient, "istio")


def test_what_breaks_a_workload_breaks_it_where_its_pod_is_and_a_machine_named_by_it_is_its_own():
    away = {"reviews-v2": "one"}
    [pod] = actions_of(fault("sidecar-kill", "reviews-v2"), CLUSTER, TOPOLOGY, "istio", away)
    assert pod == pod_broken(FaultKind.SIDECAR_KILL, "one", "reviews-v2")
    [machine] = actions_of(fault("power-off", "reviews-v2"), CLUSTER, TOPOLOGY, "istio", away)
    assert machine == Power("two", FaultKind.POWER_OFF)


def test_whole_machines_are_broken_as_anywhere():
    assert plan("power-off", "two") == (Power("two", FaultKind.POWER_OFF),)


@pytest.mark.parametrize("target", ["istiod", "one"])
def test_the_control_plane_is_killed_on_the_servers(target):
    assert plan("control-plane-kill", target) == (control_plane_killed("one"),)


@pytest.mark.parametrize("target", ["two", "three", "reviews-v1"])
def test_only_servers_have_a_control_plane(target):
    with pytest.raises(NoSuchTarget, match=rf"no server '{target}': name one, or istiod for all"):
        plan("control-plane-kill", target)


@pytest.mark.parametrize(
    ("kind", "target", "options", "why"),
    [
        ("certificate-expired", "reviews-v1", {}, "reviews-v1 has its certificate from istiod"),
        ("certificate-foreign", "gateway", {}, "gateway has its certificate from istiod"),
        ("partition", "reviews-v1", {"peer": ["gateway"]}, "what one sends is of pods"),
        ("partition", "three", {"peer": ["two", "one"]}, "what one, two sends is of pods"),
    ],
)
def test_what_would_break_nothing_is_not_applicable(kind, target, options, why):
    with pytest.raises(NothingToBreak, match=why):
        plan(kind, target, **options)


def test_random_faults_leave_out_what_does_not_apply():
    found = schedule(7, 400, CLUSTER, TOPOLOGY)
    assert len(found) > 10
    assert FaultKind.PARTITION not in {f.kind for f in found}


# What the scripts do

ROLES = {"pilot-agent": "1337", "envoy": "1337", "python3": "1338", "pause": "65535"}
SHIMS = {
    "ip": 'case "$2" in pids) cat "$POD/pids" ;; identify) cat "$POD/names" ;; esac',
    "stat": 'cat "$POD/uids/${3##*/}"',
    # it ends with the pod, whatever becomes of the test: numbers of processes recur
    "systemd-run": 'unit=${2#--unit=}; shift 2; setsid timeout 20 "$@" >/dev/null 2>&1 & echo $! >"$POD/$unit.pid"',
    "systemctl": 'case "$1" in stop) kill -- -$(cat "$POD/$2.pid"); rm "$POD/$2.pid" ;; is-active) [ -e "$POD/$3.pid" ] ;; esac',
    "pgrep": 'cat "$POD/agents"',
}


class Pod:
    """Processes that are started again when they end, as a kubelet does it."""

    def __init__(self, folder):
        self.folder, self.running, self.ends = folder, {}, threading.Event()
        (folder / "bin").mkdir()
        (folder / "uids").mkdir()
        (folder / "run" / "netns").mkdir(parents=True)
        for name, text in SHIMS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        for role in ROLES:
            shutil.copy("/bin/sleep", folder / "bin" / role)
            self.start(role)
        self.kubelet = threading.Thread(target=self.restart)
        self.kubelet.start()

    def start(self, role):
        child = subprocess.Popen([self.folder / "bin" / role, "300"])
        (self.folder / "uids" / str(child.pid)).write_text(ROLES[role] + "\n")
        self.running[role] = child
        part = self.folder / "pids.new"
        part.write_text("".join(f"{c.pid}\n" for c in self.running.values()))
        part.rename(self.folder / "pids")

    def restart(self):
        while not self.ends.wait(0.05):
            for role, child in list(self.running.items()):
                if child.poll() is not None:
                    self.start(role)

    def run(self, script):
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        script = script.replace("/run/", f"{self.folder / 'run'}/")
        environment = {**os.environ, "PATH": path, "POD": str(self.folder)}
        done = subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def states(self):
        found = {}
        for role, child in self.running.items():
            found[role] = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return found

    def await_stopped(self, roles):
        """A signal is taken when its process next runs."""

        def look():
            stopped = {role for role, state in self.states().items() if state == "T"}
            if stopped != roles:
                raise NotYet(f"stopped: {stopped}")

        wait_until("processes are stopped", look, limit=10, interval=0.05)

    def await_others(self, roles, than):
        def look():
            same = {role for role in roles if self.pids()[role] == than[role]}
            if same:
                raise NotYet(f"the same: {same}")

        wait_until("processes are others", look, limit=20, interval=0.05)

    def pids(self):
        return {role: child.pid for role, child in self.running.items()}

    def close(self):
        for file in self.folder.glob("*.pid"):
            os.killpg(int(file.read_text()), signal.SIGKILL)
        self.ends.set()
        self.kubelet.join()
        for child in self.running.values():
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.wait()


@pytest.fixture
def pod(tmp_path):
    made = Pod(tmp_path)
    (tmp_path / "agents").write_text("")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("kind", "roles"),
    [(FaultKind.SIDECAR_HANG, {"pilot-agent", "envoy"}), (FaultKind.SERVICE_HANG, {"python3"})],
)
def test_what_hangs_is_stopped_and_goes_on_and_nothing_else(pod, kind, roles):
    action = pod_broken(kind, "two", "reviews-v2")
    assert pod.run(action.proof)[0] != 0, "nothing hangs yet"
    assert pod.run(action.begin) == (0, "")
    pod.await_stopped(roles)
    assert pod.run(action.proof) == (0, f"the state of {len(roles)} processes is T (stopped)")
    for _ in range(2):
        assert pod.run(action.end)[0] == 0
    pod.await_stopped(set())


def test_where_nothing_runs_nothing_can_hang(pod):
    (pod.folder / "pids").write_text("")
    action = pod_broken(FaultKind.SIDECAR_HANG, "two", "reviews-v2")
    assert pod.run(action.begin) == (1, "nothing runs there")


@pytest.mark.parametrize(
    ("kind", "roles"),
    [(FaultKind.SIDECAR_KILL, {"pilot-agent", "envoy"}), (FaultKind.SERVICE_KILL, {"python3"})],
)
def test_what_is_killed_is_held_down_until_the_end(pod, kind, roles):
    action = pod_broken(kind, "two", "reviews-v2")
    before = pod.pids()
    assert pod.run(action.begin)[0] == 0
    pod.await_others(roles, than=before)
    pod.await_others(roles, than=pod.pids())  # again and again
    assert pod.run(action.proof) == (0, "no process lives for longer than 5 seconds")
    assert {role for role in ROLES if pod.pids()[role] != before[role]} == roles
    for _ in range(2):
        assert pod.run(action.end)[0] == 0
    time.sleep(6.5)
    after = pod.pids()
    assert pod.run(action.proof)[0] != 0, "who has lived for a while is not being killed"
    assert pod.pids() == after


def test_a_restart_is_another_agent(pod):
    action = pod_broken(FaultKind.SIDECAR_RESTART, "two", "reviews-v2")
    before = pod.pids()
    assert pod.run(action.begin) == (0, "")
    pod.await_others({"pilot-agent"}, than=before)
    now = pod.pids()
    assert pod.run(action.proof) == (0, f"process {before['pilot-agent']} became {now['pilot-agent']}")
    assert now["python3"] == before["python3"]
    assert pod.run(action.end) == (0, "")


@pytest.mark.parametrize("variable", ["ISTIO_META_WORKLOAD_NAME", "INSTANCE"], ids=["sidecar", "program"])
def test_a_pods_namespace_gets_its_workloads_name_from_its_sidecar_or_its_program(pod, variable):
    agent = subprocess.Popen(["sleep", "300"], env={variable: "reviews-v2"})
    stranger = subprocess.Popen(["sleep", "300"], env={"OTHER": "reviews-v3"})
    try:
        namespaces = pod.folder / "run" / "netns"
        (namespaces / "cni-1234").touch()
        (pod.folder / "agents").write_text(f"{agent.pid}\n{stranger.pid}\n")
        (pod.folder / "names").write_text("cni-1234\n")
        assert pod.run(NAME_PODS) == (0, "")
        assert (namespaces / "reviews-v2").readlink() == namespaces / "cni-1234"
        # a second look finds the link as one more name of the namespace
        (pod.folder / "names").write_text("reviews-v2\ncni-1234\n")
        assert pod.run(NAME_PODS) == (0, "")
        assert (namespaces / "reviews-v2").readlink() == namespaces / "cni-1234"
        assert sorted(p.name for p in namespaces.iterdir()) == ["cni-1234", "reviews-v2"]
    finally:
        for child in (agent, stranger):
            child.kill()
            child.wait()


@pytest.mark.parametrize("kind", [k for k in FaultKind if k.value.startswith(("sidecar-", "service-"))])
def test_every_script_is_one_that_a_shell_reads(kind):
    for action in (pod_broken(kind, "two", "reviews-v2"), control_plane_killed("one")):
        for script in (action.begin, action.end, action.proof):
            done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
            assert done.returncode == 0, (script, done.stderr)
