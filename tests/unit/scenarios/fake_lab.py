"""A mesh made of one small server: it answers as weights in the applied resources say.  No proxy, no machine.

The agent is the real one, run on this host; only what leads to it and the control ports are played.
"""

from __future__ import annotations

import json
import random
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path

from testbed.backends.contract import Applied, MeshDiff, ProxyState
from testbed.documents import parse
from testbed.errors import LabError, MeshError
from testbed.guests import Completed
from testbed.model.proxy import content_hash
from testbed.model.topology import MeshService, MeshWorkload, Protocol, ServicePort, Topology
from testbed.resources import ResourceSet, dump, load
from testbed.scenarios import LabUnderTest

AGENT = Path(__file__).parents[3] / "images/shared/traffic/agent.py"
WEIGHTS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
    - route:
        - {{destination: {{host: reviews, subset: v1}}, weight: {v1}}}
        - {{destination: {{host: reviews, subset: v2}}, weight: {v2}}}
"""


def labels(app: str, version: str) -> dict[str, str]:
    return {"app": app, "version": version}


def weights(v1: int, v2: int) -> ResourceSet:
    return load(parse(WEIGHTS.format(v1=v1, v2=v2), "weights.yaml"))


class FakeMesh(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.resources = weights(50, 50)
        self.draw = random.Random(5)
        self.log: dict[str, list[dict[str, object]]] = {"reviews-v1": [], "reviews-v2": []}
        self.settings: list[tuple[str, str]] = []
        self.answer = None
        self.forget = 0.0
        self.copies = 1
        self.dead_nodes: set[str] = set()
        self.revisions_change = 0
        self.refuse: MeshError | None = None
        self.looks, self.waited, self.sent_again, self.needless = 0, 0.2, 0, 0
        self.applies = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        port = ServicePort("http", 9080, Protocol.HTTP, 9080)
        here = MeshService(
            "reviews",
            "default",
            IPv4Address("127.0.0.1"),
            (ServicePort("http", self.server_address[1], Protocol.HTTP, 9080),),
            {"app": "reviews"},
        )
        self.topology = Topology(
            (here,),
            tuple(
                MeshWorkload(f"{s}-{v}", "default", s, labels(s, v), IPv4Address(a), n, ports=p, service=t)
                for s, v, a, n, p, t in (
                    ("client", "v1", "127.0.0.2", "one", (), ""),
                    ("reviews", "v1", "127.0.0.3", "one", (port,), "reviews"),
                    ("reviews", "v2", "127.0.0.4", "two", (port,), "reviews"),
                    ("bystander", "v1", "127.0.0.5", "three", (), ""),
                )
            ),
        )  # fmt: skip

    def version(self) -> str:
        route = self.resources.virtual_services[0].to_plain()["spec"]["http"][0]["route"]
        arms = [(r["destination"]["subset"], r.get("weight", 100)) for r in route]
        return self.draw.choices([a for a, _ in arms], [w for _, w in arms])[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """An agent that has enough goes away in the middle of things."""

    # The backend

    def diff(self, wanted: ResourceSet) -> MeshDiff:
        same = wanted == self.resources
        return MeshDiff("a", "b", {} if same else {"client-v1": ("rds/9080.json",)})

    def apply(self, wanted: ResourceSet, *, limit: float = 60) -> Applied:
        if self.refuse:
            raise self.refuse
        self.applies += wanted != self.resources
        changed = {} if wanted == self.resources else {"client-v1": ("rds/9080.json",)}
        self.resources = wanted
        revision = content_hash(dump(wanted))
        return Applied(revision, changed, revisions={w.name: revision for w in self.topology.workloads})

    def states(self) -> tuple[ProxyState, ...]:
        revision = content_hash(dump(self.resources))
        if self.revisions_change:
            self.revisions_change -= 1
            revision += str(self.revisions_change)
        return tuple(ProxyState(w.name, revision, in_force=True, server="LIVE") for w in self.topology.workloads)

    def applied(self) -> ResourceSet:
        return self.resources

    def admin(self, workload: str, path: str) -> bytes:
        if path == "/server_info":
            return json.dumps({"version": f"{workload}/1.2.3/Clean/RELEASE/BoringSSL"}).encode()
        return json.dumps({"of": workload, "path": path}).encode()

    def reached_at(self, workload: str) -> IPv4Address:
        return self.topology.workload(workload).address

    def wire_addresses(self, workload: str) -> frozenset[IPv4Address]:
        return frozenset({self.reached_at(workload)})

    def not_applicable(self, feature: str) -> str | None:
        return "no pods here" if feature == "pods" else None

    def vitals(self, namespaces: int) -> bytes:
        self.looks += 1
        snmp = f"Tcp: OutSegs RetransSegs\nTcp: {1000 * self.looks} {self.sent_again * self.looks}\n"
        snmp += f"TcpExt: TCPDSACKRecv TCPDSACKOfoRecv\nTcpExt: {self.needless * self.looks} 0\n"
        pressure = f"some avg10=0.00 total={int(1e6 * self.waited * self.looks)}\nfull total=0\n"
        return "\n".join([f"{self.looks}.00 0.00\n", pressure, *[snmp] * namespaces]).encode()

    def connection(self, workload: str) -> FakeConnection:
        return FakeConnection(self, self.topology.workload(workload).node)

    def lab(self) -> LabUnderTest:
        return LabUnderTest(self, agent=str(AGENT), python=sys.executable)  # type: ignore[arg-type]


class FakeConnection:
    def __init__(self, mesh: FakeMesh, node: str) -> None:
        self.mesh, self.node = mesh, node

    def run(self, argv, *, stdin=b"", limit=60, check=True) -> Completed:
        if self.node in self.mesh.dead_nodes:
            raise LabError(self.node, "run true", "it does not answer")
        if argv[0] == "uname":
            return Completed(0, f"Linux 6.1 of {self.node}\n".encode(), b"")
        if argv[0] == "bash":
            return Completed(0, self.mesh.vitals(argv[2].count("nsenter")), b"")
        return (
            Completed(0, b"HTTP/1.1 200 OK\r\n\r\n" + self.told(argv), b"")
            if "-" in argv
            else Completed(0, b"", b"")
        )

    def told(self, argv) -> bytes:
        workload = argv[1].rpartition("/")[2]
        head, _, body = argv[-1].partition("\r\n\r\n")
        path = head.split()[1]
        if body:
            self.mesh.settings.append((workload, body))
            return b"{}"
        entries = self.mesh.log[workload]
        answer: dict[str, object] = {"requests": len(entries)}
        if path != "/count":
            since = int(path.partition("=")[2])
            answer = {"last": len(entries), "requests": [e for e in entries if e["number"] > since]}
        return json.dumps(answer).encode()

    @contextmanager
    def stream(self, argv, *, stdin=b"", limit=600):
        if self.node in self.mesh.dead_nodes:
            raise LabError(self.node, "stream", "it does not answer")
        inside = list(argv)[list(argv).index(sys.executable) :]
        with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            try:
                child.stdin.write(stdin)
                child.stdin.close()
                yield iter(child.stdout)
            finally:
                child.kill()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        mesh: FakeMesh = self.server  # type: ignore[assignment]
        if mesh.answer is not None and (told := mesh.answer(self.headers)) is not None:
            status, headers, body = told
        else:
            instance = f"reviews-{mesh.version()}"
            status, body = 200, b"{}"
            headers = {"x-service": "reviews", "x-version": instance[-2:], "x-instance": instance}
        if (instance := headers.get("x-instance")) and mesh.draw.random() >= mesh.forget:
            log = mesh.log[instance]
            for _ in range(mesh.copies):
                log.append({"number": len(log) + 1, "id": self.headers["x-testbed-request"], "status": status})
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
