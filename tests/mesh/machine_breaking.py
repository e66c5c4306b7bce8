"""Breaks machines of the harness: there a node is the network namespaces of its workloads, and what runs in them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from functools import partial

from harness_network import command, processes_in
from scenario_lab import ScenarioMesh

from testbed.backends.looking import exchange
from testbed.faults.breaking import Made
from testbed.faults.proof import Proof
from testbed.model.fault import Fault, FaultKind
from testbed.model.topology import MeshWorkload
from testbed.plan.faults import workloads_of
from testbed.waiting import NotYet, wait_until


class PowerCutter:
    """Takes machines off the wire, kills all that runs on them, and starts that again: as after a boot, what they
    knew is gone.  A ``restart`` drains their sidecars first, and is off the wire for ``boots`` seconds."""

    def __init__(self, mesh: ScenarioMesh, boots: float = 1.0) -> None:
        self.mesh = mesh
        self.boots = boots

    def unable(self, fault: Fault) -> str:
        return ""

    @contextmanager
    def breaking(self, fault: Fault) -> Iterator[Made]:
        topology = self.mesh.topology
        nodes = {w.node: None for name in fault.target for w in workloads_of(name, topology)}
        hit = [w for w in topology.workloads if w.node in nodes]
        made = Made(fault, "1", tuple(nodes), began=time.monotonic())
        if fault.kind is FaultKind.RESTART:
            named = {w.name for name in fault.target for w in workloads_of(name, topology)}
            self._drain(hit, named)
        try:
            self._wire(hit, "down")
            for workload in hit:
                for pid in self.mesh.processes(workload.name):
                    os.kill(pid, signal.SIGKILL)
            wait_until("end of every process", lambda: self._dead(hit), limit=10, interval=0.01)
            made.bit = time.monotonic()
            made.proof = Proof(True, "nothing runs there")
            if fault.kind is FaultKind.RESTART:
                threading.Event().wait(self.boots)  # what a boot takes, which is the fault here and no wait for one
            yield made
        finally:
            made.ended = time.monotonic()
            self._wire(hit, "up")
            for workload in hit:
                self._boot(workload)
            made.well = time.monotonic()

    def settle(self, made: Iterable[Made]) -> None:
        """The kernels of these machines were never off, and end what half of a connection is left."""

    def _wire(self, hit: Iterable[MeshWorkload], state: str) -> None:
        for workload in hit:
            number = self.mesh.topology.workloads.index(workload)
            command("ip", "-n", self.mesh.network.bridge, "link", "set", f"v{number}", state)

    def _dead(self, hit: Iterable[MeshWorkload]) -> None:
        if left := [p for w in hit for p in processes_in(self.mesh.network.namespace(w.name))]:
            raise NotYet(f"processes {left}")

    def _drain(self, hit: Iterable[MeshWorkload], named: Set[str]) -> None:
        for workload in hit:
            order = exchange(self.mesh.guest, workload.name, 15000, "/drain_listeners?inboundonly&graceful", "")
            self.mesh.backend.connection(workload.name).run(order)
        for workload in hit:
            # a connection that is kept is closed with the next answer on it; to others than the traffic's none comes
            states = {"LISTEN", "ESTAB"} if workload.name in named else {"LISTEN"}
            wait_until(f"{workload.name} is drained", partial(self._none, workload, states), limit=20, interval=0.1)

    def _none(self, workload: MeshWorkload, states: Set[str]) -> None:
        argv = ["ss", "-N", self.mesh.network.namespace(workload.name), "-Hatn", "sport = :15006"]
        if found := [line for line in command(*argv).splitlines() if line.split()[0] in states]:
            raise NotYet(found[0])

    def _boot(self, workload: MeshWorkload) -> None:
        if workload.ports and workload.service:
            self.mesh._start_program(workload.name)
        start = self.mesh.guest.command(self.mesh.guest.start, workload.name)
        self.mesh.backend.connection(workload.name).run(start)
