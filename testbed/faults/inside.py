"""Grips inside the guest, over SSH: scripts that begin and end a fault, and a clean restart of the machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from testbed.backends.guest import Guest
from testbed.backends.istio.homes import Homes, bound_pods, nodes_of, pods_of
from testbed.backends.istio.reaching import api_of
from testbed.backends.looking import exchange
from testbed.compiler.inbound import INBOUND_PORT
from testbed.errors import LabError, TestbedError
from testbed.faults.proof import Proof
from testbed.faults.stuck import Revival
from testbed.guests.ssh import NotReachable
from testbed.lab.lab import Lab
from testbed.lab.machines import BOOT_LIMIT
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.plan.faults import Power
from testbed.plan.guestfaults import InGuest
from testbed.plan.podfaults import NAME_PODS
from testbed.waiting import NotYet, wait_until

WELL_LIMIT = 120.0
"""Seconds for the proxies of a machine that has booted to be ready."""
PODS_LIMIT = 600.0
"""The same of pods: k3s starts, and then the kubelet, which tries less and less often what has failed."""
DRAIN_LIMIT = 20
"""Seconds for callers to let go of their connections; what is idle then is closed when the machine goes down.

(Istio's agent waits in the same way with EXIT_ON_ZERO_ACTIVE_CONNECTIONS, as long as the pod's grace period.)"""


def in_guest(lab: Lab, node: str, script: str, limit: float = 60) -> tuple[int, str]:
    """Run a shell script there in one round trip, with the host's time as ``$NOW``: (status, what it said)."""
    script = f"NOW={time.time():.3f}\n{script}"
    done = lab.connection(node).run(["sh", "-c", script], limit=limit, check=False)
    return done.status, (done.stdout + done.stderr).decode(errors="replace").strip()


def await_answer(lab: Lab, node: str) -> str:
    """Until it can be logged in to; what had to be done for that (see :mod:`testbed.faults.stuck`), or nothing."""
    revival = Revival(lab, node)

    def answers() -> None:
        try:
            lab.connection(node).connect(limit=15)
        except NotReachable as e:
            revival.look()
            raise NotYet(e.cause) from None

    wait_until(f"{node} answers on SSH", answers, limit=BOOT_LIMIT, interval=0.2)
    return revival.words


def proved_boot(before: str, now: str, revived: str) -> str:
    """A proof's words: another boot, and what it took."""
    words = f"its boot {before[:8]} became {now[:8]}"
    return f"{words}; {revived}" if revived else words


def await_boot(lab: Lab, node: str) -> None:
    """Until it can be logged in to, and every workload on it does its work; pods that have left it are not."""
    await_answer(lab, node)
    if is_in_cluster(lab, node):
        await_pods(lab, node)
    else:
        await_ready(lab, [w for w in lab.topology.workloads if w.node == node])


def await_ready(lab: Lab, workloads: Sequence[MeshWorkload]) -> None:
    """Until the program of each of these, which share a machine, listens and its proxy says that it is ready."""
    if not workloads:
        return
    node = workloads[0].node
    name = f"{node}: its programs and proxies are ready"
    wait_until(name, lambda: _require_ready(lab, node, workloads), limit=WELL_LIMIT, interval=0.5)


def await_pods(lab: Lab, node: str, workload: str = "") -> None:
    """The same of the pods that are on a node of the cluster, once that is Ready; or of a workload's, wherever."""

    def ready() -> None:
        for where, here in _pods_by_node(lab, node, workload).items():
            _require_ready(lab, where, here, NAME_PODS)

    name = f"{workload or node}: its programs and proxies are ready"
    wait_until(name, ready, limit=PODS_LIMIT, interval=1)


def _pods_by_node(lab: Lab, node: str, workload: str) -> dict[str, list[MeshWorkload]]:
    """Those that are waited for, by the node that each is on.  Raises NotYet while one has none."""
    try:
        with closing(api_of(lab)) as api:
            homes = Homes(api, pods_of(lab))
            if not workload:
                homes.require_pods_taken([node])
            pods = {pod.workload: pod.node for pod in homes.pods()}
    except TestbedError as e:
        raise NotYet(str(e)) from None
    awaited = [w.name for w in pods_of(lab) if (w.name == workload if workload else w.node == node)]
    if missing := sorted(set(awaited) - set(pods)):
        raise NotYet(f"no pod runs for {', '.join(missing)}")
    found: dict[str, list[MeshWorkload]] = {}
    for name, where in pods.items():
        if name == workload or (not workload and where == node):
            found.setdefault(where, []).append(lab.topology.workload(name))
    return found


def _require_ready(lab: Lab, node: str, workloads: Sequence[MeshWorkload], before: str = "") -> None:
    try:
        status, said = in_guest(lab, node, before + " && ".join(map(_ready, workloads)), limit=30)
    except LabError as e:
        raise NotYet(e.cause) from None
    if status != 0:
        raise NotYet(said.splitlines()[-1] if said else "not ready")


def is_in_cluster(lab: Lab, node: str) -> bool:
    """Whether its workloads are pods."""
    return lab.has_cluster and node in nodes_of(lab)


def workloads_on(lab: Lab, node: str) -> tuple[MeshWorkload, ...]:
    """Those that run there now; of a cluster that does not say, those that are at home there."""
    home = tuple(w for w in lab.topology.workloads if w.node == node)
    if not is_in_cluster(lab, node):
        return home
    try:
        return tuple(lab.topology.workload(p.workload) for p in bound_pods(lab) if p.node == node)
    except TestbedError:
        return home


def _ready(workload: MeshWorkload) -> str:
    """Asks the proxy with bash alone: it is there, and costs an emulated machine next to nothing."""
    request = "GET /healthz/ready HTTP/1.1\\r\\nhost: node\\r\\nconnection: close\\r\\n\\r\\n"
    ask = (
        f"exec 3<>/dev/tcp/127.0.0.1/15021; printf '{request}' >&3; read -r -t 3 _ status _ <&3; [ $status = 200 ]"
    )
    if not workload.has_envoy:
        ask = "true"  # its node's ztunnel is no part of the pod
    if workload.service and workload.ports and workload.kind is not ProxyKind.GATEWAY:
        port = f"sport = :{workload.ports[0].target}"
        ask = f"[ -n \"$(ss -Hltn '{port}')\" ] || {{ echo {workload.name} does not listen; exit 1; }}; {ask}"
    return f"ip netns exec {shlex.quote(workload.name)} bash -c {shlex.quote(ask)}"


@dataclass
class GuestGrip:
    """Scripts in the guest, each one round trip."""

    action: InGuest
    lab: Lab

    def begin(self) -> None:
        """Run the script."""
        status, said = in_guest(self.lab, self.action.node, self.action.begin)
        if status != 0:
            raise LabError(self.action.node, f"break its {self.action.part}", said or f"exit status {status}")

    def prove(self) -> Proof:
        """What the proof says."""
        status, said = in_guest(self.lab, self.action.node, self.action.proof)
        return Proof(status == 0, said.replace("\n", " ") or "it said nothing")

    def end(self) -> None:
        """Run the other script."""
        status, said = in_guest(self.lab, self.action.node, self.action.end)
        if status != 0:
            raise LabError(self.action.node, f"mend its {self.action.part}", said or f"exit status {status}")

    def await_well(self) -> None:
        """Where a unit was meant, until its workload does its work."""
        if not self.action.part.startswith("testbed-"):
            return
        workload = self.lab.topology.workload(self.action.part.partition("@")[2])
        if is_in_cluster(self.lab, workload.node):
            await_pods(self.lab, workload.node, workload.name)
        else:
            await_ready(self.lab, [workload])


def drained(here: Sequence[MeshWorkload], guest: Guest) -> str:
    """A script that drains proxies of one node as Istio's agent does when it ends: what a sidecar takes in, all
    that a gateway has.  It goes on when they listen no more and no connection from elsewhere is left, or after the
    limit: a kept connection ends with the next answer on it, so that who calls on lets go of all that he has."""
    ordered = look = ""
    elsewhere = "".join(f" and not dst {w.address}" for w in here)
    for workload in here:
        gateway = workload.kind is ProxyKind.GATEWAY
        path = f"/drain_listeners?{'' if gateway else 'inboundonly&'}graceful"
        ordered += f"{shlex.join(exchange(guest, workload.name, 15000, path, ''))} >/dev/null\n"
        ports = [p.target for p in workload.ports if gateway] or [INBOUND_PORT]
        of = f"( {' or '.join(f'sport = :{port}' for port in ports)} )"
        ss = f"ss -N {shlex.quote(guest.namespace_of(workload.name))} -Hn"
        look += f"{ss} -lt '{of}'; {ss} -t state established '{of}{elsewhere}'; "
    wait = f'while [ $(date +%s) -lt $until ] && [ -n "$({look})" ]; do sleep 0.2; done\n'
    return f"{ordered}until=$(($(date +%s) + {DRAIN_LIMIT}))\n{wait}" if here else ""


@dataclass
class RestartGrip:
    """The machine restarts as an operator does it: its sidecars are drained, then it shuts down and boots."""

    action: Power
    lab: Lab
    boot: str = ""

    def begin(self) -> None:
        """Drain, then restart."""
        node = self.action.node
        self.boot = self._boot_id()
        here = [w for w in workloads_on(self.lab, node) if w.has_envoy]
        script = drained(here, Guest()) if self.action.drain else ""
        script = NAME_PODS + script if script and is_in_cluster(self.lab, node) else script
        status, said = in_guest(self.lab, node, f"{script}systemctl --no-block reboot")
        if status != 0:
            raise LabError(node, "restart it", said or f"exit status {status}")
        self.lab.connection(node).close()

    def prove(self) -> Proof:
        """It answers, and with another boot."""
        node = self.action.node
        revival = Revival(self.lab, node)

        def booted() -> str:
            try:
                self.lab.connection(node).connect(limit=15)
                now = self._boot_id()
            except LabError as e:
                self.lab.connection(node).close()
                revival.look()
                raise NotYet(e.cause) from None
            if now in ("", self.boot):  # nothing is said by a command that the shutdown cut off
                raise NotYet("it has not gone down yet")
            return now

        now = wait_until(f"{node} boots again", booted, limit=BOOT_LIMIT, interval=0.5)
        return Proof(bool(self.boot and now), proved_boot(self.boot, now, revival.words))

    def end(self) -> None:
        """Start it, should it be off."""
        self.lab.connection(self.action.node).close()
        self.lab.hypervisor().start(self.action.node)

    def await_well(self) -> None:
        """Until it answers and its workloads do their work."""
        await_boot(self.lab, self.action.node)

    def _boot_id(self) -> str:
        return in_guest(self.lab, self.action.node, "cat /proc/sys/kernel/random/boot_id")[1]
