"""The default lab in namespaces, with the sample programs that machines run, as scenarios meet it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import MeshHarness
from harness_network import command

from testbed.documents import parse
from testbed.resources import ResourceSet, load
from testbed.scenarios import LabUnderTest
from testbed.traffic import HostConnection
from testbed.waiting import NotYet, wait_until

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "images/shared/traffic/agent.py"
PROGRAMS = ROOT / "images/shared/programs"
OUTSIDE = "10.78.255.250"  # an address in the mesh network that no workload has


class ScenarioMesh(MeshHarness):
    """The harness with Bookinfo in it; ``lab`` is what scenarios are run on."""

    def _start_program(self, name: str) -> None:
        workload = self.topology.workload(name)
        environment = {
            "SERVICE": workload.service,
            "VERSION": workload.version,
            "INSTANCE": name,
            "NODE": workload.node,
            "PORTS": ",".join(str(p.target) for p in workload.ports),
            "PATH": "/usr/bin:/bin",
        }
        program = PROGRAMS / ("echo.py" if workload.service == "echo" else "bookinfo.py")
        log = (self.run / "logs" / name / "program.err").open("wb")
        process = subprocess.Popen(
            self._inside(name, [sys.executable, "-I", str(program)]), env=environment, stdout=log, stderr=log
        )

        def listening() -> None:
            if process.poll() is not None:
                raise RuntimeError((self.run / "logs" / name / "program.err").read_text())
            argv = ["ss", "-N", self.network.namespace(name), "-Hltn", "sport = :9901"]
            if not subprocess.run(argv, capture_output=True, check=True).stdout:
                raise NotYet("nothing listens on the control port")

        wait_until(f"program of {name}", listening, limit=20, interval=0.05)

    @property
    def lab(self) -> LabUnderTest:
        """The mesh, with a way in from outside: a process in the bridge's namespace."""
        gateway = next((w for w in self.topology.workloads if w.kind == "gateway"), None)
        argv = ("ip", "netns", "exec", self.network.bridge, sys.executable, "-I", str(AGENT))
        return LabUnderTest(
            self.backend,
            gateway=(lambda: (str(gateway.address), gateway.ports[0].target)) if gateway else None,
            agent=str(AGENT),
            python=sys.executable,
            guest=self.guest,
            machines=False,  # the host's load is everybody's
            outside=HostConnection(argv=argv),
            capture=self._capture_node,
        )

    def open_outside(self) -> None:
        """Give the bridge an address, so that it can call the gateway as the world does."""
        command("ip", "-n", self.network.bridge, "address", "add", f"{OUTSIDE}/16", "dev", "br0")

    @contextmanager
    def _capture_node(self, node: str) -> Iterator[Path]:
        """Everything on the bridge: what a machine's tap would see, and more."""
        file = self.run / f"{node}.pcap"
        argv = [
            "ip",
            "netns",
            "exec",
            self.network.bridge,
            "tcpdump",
            "-U",
            "--immediate-mode",
            "-i",
            "any",
            "-w",
            str(file),
            "tcp",
        ]
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as tcpdump:
            assert tcpdump.stderr
            tcpdump.stderr.readline()  # "listening on": from here on nothing is missed
            try:
                yield file
            finally:
                tcpdump.terminate()
                tcpdump.wait()


def shipped_resources(folder: str) -> ResourceSet:
    """What ``up`` applies to a shipped lab."""
    files = sorted((ROOT / "playbooks/resources" / folder).glob("*.yaml"))
    return load([document for f in files for document in parse(f.read_text(), str(f))])
