"""Network namespaces that play the nodes: one bridge, and one namespace with an address for each workload.

Names carry the pid and start time of their maker, so what a killed run left behind is told from what is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.waiting import NotYet, wait_until

PREFIX = "tbm"
RUN_ROOT = Path("/run/testbed-mesh")
_numbers = count()

REDIRECT = Path(__file__).resolve().parents[2] / "images/shared/node/redirect.nft"


def _started(pid: int) -> str:
    """The start time of a process in clock ticks, empty when there is none (proc(5), field 22)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def new_tag() -> str:
    """A tag of this process that no other harness has."""
    return f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"


def _is_leftover(name: str) -> bool:
    match = re.match(rf"{PREFIX}-(\d+)-(\d+)-", name)
    return bool(match) and _started(int(match[1])) != match[2]


def remove_leftovers() -> None:
    """Take away namespaces and directories whose maker is gone; one process at a time, as several may find them."""
    RUN_ROOT.mkdir(parents=True, exist_ok=True)
    with (RUN_ROOT / "leftovers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = [p.name for p in Path("/run/netns").glob(f"{PREFIX}-*")] if Path("/run/netns").exists() else []
        at_once(remove_namespace, [n for n in names if _is_leftover(n)])
        for directory in RUN_ROOT.glob(f"{PREFIX}-*"):
            if _is_leftover(f"{directory.name}-"):
                shutil.rmtree(directory, ignore_errors=True)


def at_once(work: Callable[[str], object], names: Iterable[str]) -> None:
    """``work`` for all names in threads; the first error is raised when all are through."""
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            work(name)
        except BaseException as e:  # noqa: BLE001 - handed to the caller's thread
            errors.append(e)

    threads = [threading.Thread(target=run, args=(n,)) for n in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def command(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def processes_in(namespace: str) -> list[int]:
    return [int(p) for p in command("ip", "netns", "pids", namespace).split()]


def remove_namespace(namespace: str) -> None:
    """End what runs in it, take it away, and its hosts file with it."""
    if Path(f"/run/netns/{namespace}").exists():

        def empty() -> None:
            left = processes_in(namespace)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if left:
                raise NotYet(f"processes {left}")

        wait_until(f"end of the processes in {namespace}", empty, limit=10, interval=0.02)
        command("ip", "netns", "delete", namespace)
    shutil.rmtree(f"/etc/netns/{namespace}", ignore_errors=True)


class MeshNetwork:
    """The namespaces of one harness."""

    def __init__(self, topology: Topology, tag: str, mtu: int = 1500) -> None:
        self._topology = topology
        self._tag = tag
        self._mtu = mtu
        self.bridge = f"{tag}-bridge"

    def namespace(self, workload: str) -> str:
        return f"{self._tag}-w-{workload}"

    def create(self) -> None:
        command("ip", "netns", "add", self.bridge)
        links = [
            "link add br0 type bridge forward_delay 0 mcast_snooping 0",
            "link set br0 up",
            "link set lo up",
        ]
        for workload in self._topology.workloads:
            command("ip", "netns", "add", self.namespace(workload.name))
        for number, workload in enumerate(self._topology.workloads):
            links += [
                f"link add v{number} type veth peer name eth0 netns {self.namespace(workload.name)}",
                f"link set v{number} master br0 up",
            ]
        command("ip", "-n", self.bridge, "-batch", "-", stdin="\n".join(links))
        for workload in self._topology.workloads:
            self._furnish(workload)

    def _furnish(self, workload: MeshWorkload) -> None:
        namespace = self.namespace(workload.name)
        lines = [
            "link set lo up",
            f"addr add {workload.address}/16 dev eth0",
            f"link set eth0 mtu {self._mtu} up",
            # Redirecting comes after routing: without a route a call to a service fails before it.
            f"route add {self._topology.service_range} dev eth0",
        ]
        command("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines))
        Path(f"/etc/netns/{namespace}").mkdir(parents=True)
        Path(f"/etc/netns/{namespace}/hosts").write_text(
            f"127.0.0.1 localhost\n{workload.address} {workload.name}\n"
        )
        enter = ["ip", "netns", "exec", namespace]
        if workload.kind is ProxyKind.SIDECAR:
            command(*enter, "nft", "-f", str(REDIRECT))
        else:  # a gateway listens on the ports that people call
            command(*enter, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")

    def destroy(self) -> None:
        at_once(remove_namespace, [*(self.namespace(w.name) for w in self._topology.workloads), self.bridge])
