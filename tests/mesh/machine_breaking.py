"""Breaks machines of the harness: there a node is the network namespaces of its workloads, and what runs in them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from harness_network import command, processes_in
from scenario_lab import ScenarioMesh

from testbed.faults.breaking import Made
from testbed.faults.certificates import CertificateGrip
from testbed.faults.inside import drained
from testbed.faults.proof import Proof
from testbed.model.fault import Fault, FaultKind
from testbed.model.topology import MeshWorkload
from testbed.plan.faults import Certificate, workloads_of
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
    def breaking(self, fault: Fault, begun: Callable[[Made], None]) -> Iterator[Made]:
        topology = self.mesh.topology
        nodes = {w.node: None for name in fault.target for w in workloads_of(name, topology)}
        hit = [w for w in topology.workloads if w.node in nodes]
        made = Made(fault, "1", tuple(nodes), began=time.monotonic())
        begun(made)
        if fault.kind is FaultKind.RESTART and fault.drain is not False:
            # of others on its machine nobody calls on, so that their connections would be waited for to the limit
            named = [w for name in fault.target for w in workloads_of(name, topology)]
            script = drained(named, self.mesh.guest)
            self.mesh.backend.connection(named[0].name).run(["sh", "-c", script])
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

    def _boot(self, workload: MeshWorkload) -> None:
        if workload.ports and workload.service:
            self.mesh._start_program(workload.name)
        start = self.mesh.guest.command(self.mesh.guest.start, workload.name)
        self.mesh.backend.connection(workload.name).run(start)


class CertificateLayer:
    """Lays certificates by the code that does it on machines."""

    def __init__(self, mesh: ScenarioMesh, folder: Path) -> None:
        self.mesh = mesh
        if not (folder / "ca").exists():
            mesh.ca.save(folder / "ca")
        self.lab = SimpleNamespace(
            id="mesh tests",
            topology=mesh.topology,
            connection=mesh.connections.__getitem__,
            directories=SimpleNamespace(pki=folder),
        )

    def unable(self, fault: Fault) -> str:
        return ""

    @contextmanager
    def breaking(self, fault: Fault, begun: Callable[[Made], None] = lambda _: None) -> Iterator[Made]:
        [workload] = workloads_of(fault.target[0], self.mesh.topology)
        grip = CertificateGrip(Certificate(workload.node, workload.name, fault.kind), self.lab, self.mesh.guest)
        made = Made(fault, "1", (workload.node,), began=time.monotonic())
        begun(made)
        try:
            grip.begin()
            made.bit = time.monotonic()
            made.proof = grip.prove()
            yield made
        finally:
            grip.end()
            made.ended = made.well = time.monotonic()

    def settle(self, made: Iterable[Made]) -> None:
        """Nothing was forgotten."""
