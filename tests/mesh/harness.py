"""A mesh on this host: the standalone backend with namespaces for nodes, real Envoys and real certificates.

    with MeshHarness(topology) as mesh:
        mesh.apply(yaml_text)
        answers = mesh.request("client-v1", "http://reviews:9080/", n=100)
        Counter(a.json()["version"] for a in answers)

Only root can make it.  Everything is taken away at the end, also what an earlier run that was killed left.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness_network import RUN_ROOT, MeshNetwork, at_once, new_tag, processes_in, remove_leftovers

from testbed.backends.contract import Applied, ProxyState
from testbed.backends.guest import Guest
from testbed.backends.secrets import identity_file
from testbed.backends.standalone import StandaloneBackend
from testbed.compiler import Layout, SecurityInputs
from testbed.documents import parse
from testbed.errors import WaitTimeout
from testbed.guests import CommandFailed, Completed
from testbed.model.inventory import Inventory
from testbed.model.reading import instance_name, read_inventory, topology_of
from testbed.model.topology import MeshWorkload, Topology
from testbed.pki import Credential, LabCa
from testbed.resources import ResourceSet, load
from testbed.waiting import NotYet, wait_until

HERE = Path(__file__).resolve().parent
TOOL = HERE.parents[1] / "images/shared/node/testbed_xds.py"
PROGRAMS = HERE.parents[1] / "images/shared/programs"
USER = 1337
"""User and group of sidecars on nodes."""
CONTROL_PORT = 9901

TWO_SERVICES = """
id: two-services
nodes: [{name: one}, {name: two}]
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-echo, port: 9000}]}
workloads:
  - {service: web, version: v1, node: one, serviceAccount: web}
  - {service: web, version: v2, node: two, serviceAccount: web}
  - {service: client, version: v1, node: one, serviceAccount: client, program: none}
"""

# What the unit testbed-sidecar@ does on a node.  Envoy's shared memory for hot restarts would be one for all.
SIDECAR = """#!/bin/sh
set -e
pid={run}/$1.pid
if [ -f "$pid" ]; then
  old=$(cat "$pid"); kill "$old" 2>/dev/null || :
  while readlink -e "/proc/$old/exe" >/dev/null; do sleep 0.02; done  # a dead process has none, reaped or not
fi
cd /
ip netns exec {tag}-w-$1 setpriv --reuid "$(stat -c %u {run}/logs/$1)" --regid {group} --clear-groups {run}/envoy \\
  -c {run}/proxies/$1/bootstrap.json --concurrency 1 --drain-time-s 1 --drain-strategy immediate \\
  --disable-hot-restart --file-flush-interval-msec 50 >>{run}/logs/$1/envoy.log 2>&1 </dev/null &
echo $! > "$pid"
"""


@dataclass(frozen=True)
class Response:
    """One answer; ``status`` is 0 and ``error`` says why when there was none.  Header names are lower case."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""
    seconds: float = 0.0
    at: float = 0.0
    """When it was sent, in seconds of the epoch."""

    def json(self) -> dict[str, Any]:
        """What the program said of the request: workload, service, version, path, headers, ..."""
        return json.loads(self.body)

    @property
    def workload(self) -> str:
        """Which workload's program answered; empty when none did."""
        return self.headers.get("x-instance", "")

    @property
    def version(self) -> str:
        """The version that answered; empty when none did."""
        return self.headers.get("x-version", "")


class LocalConnection:
    """A node of the harness: commands are run on this host."""

    def __init__(self, node: str) -> None:
        self._node = node

    @property
    def node(self) -> str:
        return self._node

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60, check: bool = True) -> Completed:
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as e:
            raise WaitTimeout(f"{self._node}: {argv[0]}", limit, (e.stderr or b"").decode()[-500:]) from None
        if check and done.returncode:
            raise CommandFailed(self._node, " ".join(argv[:6]), done.stderr.decode().strip()[-500:])
        return Completed(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def stream(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 600) -> Iterator[Iterator[bytes]]:
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            timer = threading.Timer(limit, process.kill)
            timer.start()
            try:
                assert process.stdin and process.stdout
                process.stdin.write(stdin)
                process.stdin.close()
                yield iter(process.stdout)
            finally:
                timer.cancel()
                process.kill()

    def start(self, argv: Sequence[str]) -> LocalProgram:
        return LocalProgram(self._node, argv)


class LocalProgram:
    """A program of a node that is talked to."""

    def __init__(self, node: str, argv: Sequence[str]) -> None:
        self._node = node
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, line: bytes, limit: float) -> bytes:
        assert self.process.stdin and self.process.stdout
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not answer:
            raise CommandFailed(self._node, "ask a program", "it ended")
        return answer

    def close(self) -> None:
        with self.process:  # waits for its end
            pass


class Capture:
    """Packets of one workload's interface, in a pcap file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def payload(self) -> bytes:
        """All that was seen, headers and all: enough to look for plaintext."""
        return self.file.read_bytes()

    def text(self, *options: str) -> str:
        """As tcpdump prints it."""
        return subprocess.run(
            ["tcpdump", "-nn", "-r", self.file, *options], capture_output=True, text=True, check=True
        ).stdout


def envoy_binary() -> Path:
    """The Envoy to run: ``TESTBED_ENVOY``, else the pinned one (fetched on first use)."""
    if named := os.environ.get("TESTBED_ENVOY"):
        return Path(named)
    from testbed.artifacts.releases import envoy
    from testbed.host.directories import cache_root

    return envoy(cache_root())


def inventory_topology(inventory: str | Path) -> tuple[Inventory, Topology]:
    """An inventory and its topology, from a file or from YAML text."""
    text = inventory.read_text() if isinstance(inventory, Path) else inventory
    read = read_inventory(text, str(inventory) if isinstance(inventory, Path) else "inventory.yaml")
    return read, topology_of(read)


class MeshHarness:
    """A running mesh; see the module's text.

    ``programs``: workload -> the sample program that it runs (a file of ``images/shared/programs``, or ``none``);
    those that are not named run the tests' own program, which tells what it was asked.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        programs: Mapping[str, str] | None = None,
        security: SecurityInputs | None = None,
    ) -> None:
        self.topology = topology
        self.tag = new_tag()
        self.run = RUN_ROOT / self.tag
        self.network = MeshNetwork(topology, self.tag)
        self.ca = LabCa.create("mesh tests")
        self._programs = programs or {}
        self._security = security
        self._cleared = datetime.min.replace(tzinfo=UTC)
        # On nodes all sidecars are one user.  Here they would share what the kernel lets a user watch (by default
        # 128 inotify instances; Envoy takes one for each file), so only their group is what the redirect knows.
        first = 100_000 + os.getpid() % 10_000 * 100
        self._users = {w.name: first + i for i, w in enumerate(topology.workloads)}
        self._layout = Layout(str(self.run / "proxies"), str(self.run / "logs"))
        self.connections = {w.node: LocalConnection(w.node) for w in topology.workloads}
        self.guest = Guest(
            layout=self._layout,
            tool=(sys.executable, "-ISE", str(TOOL)),
            namespace=f"{self.tag}-w-{{workload}}",
            hosts=f"/etc/netns/{self.tag}-w-{{workload}}/hosts",
            resources=str(self.run / "resources/{node}"),
            start=(str(self.run / "sidecar"), "{workload}"),
            log=("cat", str(self.run / "logs/{workload}/envoy.log")),
            owners=self._users,
            durable=False,
        )

    @cached_property
    def backend(self) -> StandaloneBackend:
        """The backend under test."""
        return StandaloneBackend(
            self.topology, self.connections, self.ca, guest=self.guest, security=self._security
        )

    @classmethod
    def from_inventory(cls, inventory: str | Path, *, sample_programs: bool = False) -> MeshHarness:
        """The mesh of an inventory (a path, or YAML text), with its sample programs or with the tests' own."""
        read, topology = inventory_topology(inventory)
        named = {instance_name(w, i): w.program for w in read.workloads for i in range(w.replicas)}
        return cls(topology, programs={w: p for w, p in named.items() if sample_programs or p == "none"})

    def __enter__(self) -> MeshHarness:
        remove_leftovers()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and take every namespace away."""
        try:
            self.network.destroy()
        finally:
            shutil.rmtree(self.run, ignore_errors=True)

    def _prepare(self) -> None:
        self.run.mkdir(parents=True)
        RUN_ROOT.chmod(0o755)
        self.run.chmod(0o755)
        binary = envoy_binary().resolve()
        try:
            os.link(binary, self.run / "envoy")  # its own folder may be closed to the proxies' user
        except OSError:
            shutil.copyfile(binary, self.run / "envoy")
        (self.run / "envoy").chmod(0o755)
        script = self.run / "sidecar"
        script.write_text(SIDECAR.format(run=self.run, tag=self.tag, group=USER))
        script.chmod(0o755)
        for workload in self.topology.workloads:
            logs = self.run / "logs" / workload.name
            logs.mkdir(parents=True)
            os.chown(logs, self._users[workload.name], USER)
        (self.run / "logs").chmod(0o755)
        self.network.create()
        at_once(self._start_program, [w.name for w in self.topology.workloads if self._has_program(w)])

    def _has_program(self, workload: MeshWorkload) -> bool:
        return bool(workload.service and workload.ports) and self._programs.get(workload.name) != "none"

    def _start_program(self, name: str) -> None:
        workload = self.topology.workload(name)
        ports = [f"{p.target}{'' if p.protocol.is_http else '/tcp'}" for p in workload.ports]
        log = self.run / "logs" / name / "program.log"
        argv = [str(HERE / "harness_program.py"), name, workload.service, workload.version, str(log), *ports]
        environment = {
            "SERVICE": workload.service,
            "VERSION": workload.version,
            "INSTANCE": name,
            "NODE": workload.node,
            "NAMESPACE": workload.namespace,
            "PORTS": ",".join(str(p.target) for p in workload.ports),
            "CONTROL_PORT": str(CONTROL_PORT),
        }
        if name in self._programs:
            argv = [str(PROGRAMS / f"{self._programs[name]}.py")]
        with (self.run / "logs" / name / "program.err").open("wb") as errors:
            process = subprocess.Popen(
                self._inside(name, [sys.executable, "-S", *argv]),
                env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            )  # fmt: skip

        def listening() -> None:
            if process.poll() is not None:
                raise RuntimeError((self.run / "logs" / name / "program.err").read_text())
            if not subprocess.run(
                ["ss", "-N", self.network.namespace(name), "-Hltn", f"sport = :{CONTROL_PORT}"],
                capture_output=True,
                check=True,
            ).stdout:
                raise NotYet("nothing listens")

        wait_until(f"program of {name}", listening, limit=10, interval=0.05)

    def _inside(self, workload: str, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.network.namespace(workload), *argv]

    # Configuration

    def resources(self, text: str) -> ResourceSet:
        """Istio manifests as resources."""
        return load(parse(text, "test.yaml"))

    def apply(self, wanted: str | ResourceSet, *, limit: float = 30) -> Applied:
        """Make it the whole configuration; returns when it is in force."""
        return self.backend.apply(self.resources(wanted) if isinstance(wanted, str) else wanted, limit=limit)

    def state(self, workload: str) -> ProxyState:
        """What the workload's proxy says of itself."""
        return next(s for s in self.backend.states() if s.workload == workload)

    # Traffic

    def request(
        self,
        from_workload: str,
        url: str,
        method: str = "GET",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        n: int = 1,
        body: str = "",
        *,
        concurrency: int = 1,
        reuse: bool = False,
        timeout: float = 10,
        connect: str = "",
        roots: str = "",
        credential: Credential | None = None,
        alpn: Sequence[str] = (),
        tls: str = "",
        ciphers: str = "",
        pause: float = 0,
        gate: Path | None = None,
        user: int = 0,
    ) -> list[Response]:
        """Send ``n`` requests from inside the workload's namespace; through its sidecar, if it has one.

        ``reuse`` keeps one connection per lane of ``concurrency``; ``connect`` is the address to dial instead of
        the host's; ``roots`` is the PEM to trust for https (nothing is verified without); ``credential`` and
        ``alpn`` are shown for https; ``tls`` is the only version to speak (a name of ``ssl.TLSVersion``), ``ciphers``
        what OpenSSL calls those of 1.2; ``pause`` is in seconds between requests; all but the first wait until the
        file ``gate`` is there; ``user`` 1337 goes past the sidecar.
        """
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        job = {
            "url": url, "method": method, "headers": pairs, "n": n, "body": body, "concurrency": concurrency,
            "reuse": reuse, "timeout": timeout, "connect": connect, "roots": roots, "alpn": list(alpn), "tls": tls,
            "ciphers": ciphers,
            "pause": pause, "gate": str(gate or ""),
            "certificate": self._certificate_file(credential) if credential else "",
        }  # fmt: skip
        found = json.loads(
            self.command(
                from_workload,
                [sys.executable, "-ISE", str(HERE / "harness_client.py")],
                stdin=json.dumps(job).encode(),
                user=user,
                limit=n * (timeout + pause) + 30,
            )
        )
        return [
            Response(**{**r, "headers": dict(r.get("headers", ())), "body": base64.b64decode(r.get("body", ""))})
            for r in found
        ]

    def _certificate_file(self, credential: Credential) -> str:
        file = self.run / f"{credential.fingerprint}.pem"
        file.touch(mode=0o600)
        file.write_bytes(credential.chain + credential.key)
        os.chown(file, USER, USER)
        return str(file)

    def replace_secret(self, workload: str, credential: Credential) -> None:
        """Let its proxy show this certificate, behind the backend's back; the next ``apply`` puts that right."""
        secret = identity_file(credential)
        made = self.run / f"{secret.version}.new"
        made.write_bytes(secret.content)
        os.chown(made, self._users[workload], USER)
        made.rename(Path(self._layout.root) / workload / secret.path)

        def shown() -> None:
            if f"{credential.certificate.serial_number:x}" not in self.backend.admin(workload, "/certs").decode():
                raise NotYet("another certificate")

        wait_until(f"the new certificate of {workload}", shown, limit=5, interval=0.02)

    def command(
        self, workload: str, argv: Sequence[str], *, stdin: bytes = b"", user: int = 0, limit: float = 60
    ) -> bytes:
        """Run a command inside the workload's namespace; what it printed."""
        drop = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"] if user else []
        return (
            self.connections[self.topology.workload(workload).node]
            .run(self._inside(workload, [*drop, *argv]), stdin=stdin, limit=limit)
            .stdout
        )

    def control(self, workload: str, **behaviour: Any) -> None:
        """How its program behaves from now on: delay (s), status, hang, abort, body, headers, times."""
        job = {
            "url": f"http://127.0.0.1:{CONTROL_PORT}/control", "method": "POST", "headers": [], "n": 1,
            "concurrency": 1, "body": json.dumps({"reset": True, **behaviour}), "reuse": False, "timeout": 5,
        }  # fmt: skip
        argv = [sys.executable, "-ISE", str(HERE / "harness_client.py")]
        (answer,) = json.loads(self.command(workload, argv, stdin=json.dumps(job).encode()))
        if answer.get("status") != 200:
            raise RuntimeError(f"{workload}: {answer}")

    # What was seen

    def backend_log(self, workload: str) -> list[dict[str, Any]]:
        """The requests that its program got, oldest first."""
        return _lines(self.run / "logs" / workload / "program.log")

    def access_log(self, workload: str, at_least: int = 0) -> list[dict[str, Any]]:
        """Its proxy's access log of what began since ``clear_logs``, oldest first.

        Waits until there are ``at_least`` lines: Envoy writes in bulk, and what it had not yet written when the
        file was emptied comes into it afterwards.  Those lines tell themselves by their time, which is this host's.
        """

        def enough() -> list[dict[str, Any]]:
            lines = _lines(Path(self._layout.access_log(self.topology.workload(workload))))
            found = [line for line in lines if datetime.fromisoformat(line["start_time"]) >= self._cleared]
            if len(found) < at_least:
                raise NotYet(f"{len(found)} lines")
            return found

        return wait_until(f"{at_least} lines in the access log of {workload}", enough, limit=5, interval=0.05)

    def clear_logs(self) -> None:
        """Empty every program's and access log."""
        now = datetime.now(UTC)
        self._cleared = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as exact as Envoy writes it
        for file in self.run.glob("logs/*/*.log"):
            if file.name != "envoy.log":
                os.truncate(file, 0)

    def stats(self, workload: str, pattern: str = "") -> dict[str, int]:
        """Its proxy's counters and gauges that were ever used, those whose names match ``pattern`` (RE2)."""
        from urllib.parse import quote

        text = self.backend.admin(
            workload, "/stats?usedonly" + (f"&filter={quote(pattern)}" if pattern else "")
        ).decode()
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}

    def envoy_log(self, workload: str, since: datetime | None = None) -> str:
        """Its proxy's own log."""
        return self.backend.log(workload, since)

    def pid(self, workload: str) -> int:
        """The pid of its proxy."""
        return int((self.run / f"{workload}.pid").read_text())

    def processes(self, workload: str) -> list[int]:
        """Every process in its namespace."""
        return processes_in(self.network.namespace(workload))

    def now(self) -> datetime:
        """The time that log lines carry."""
        return datetime.now(UTC)

    @contextmanager
    def capture(self, workload: str, *expression: str) -> Iterator[Capture]:
        """Packets on the workload's interface while the context is open; read them after it."""
        file = self.run / f"{workload}-{new_tag()}.pcap"
        argv = self._inside(
            workload,
            [
                "tcpdump",
                "-i",
                "eth0",
                "-U",
                "--immediate-mode",
                "-s",
                "0",
                "-Z",
                "root",
                "-w",
                str(file),
                *expression,
            ],
        )
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
            assert process.stderr
            for line in process.stderr:
                if b"listening on" in line:
                    break
            try:
                yield Capture(file)
            finally:
                process.terminate()
                process.stderr.read()


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
