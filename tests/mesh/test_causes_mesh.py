"""What the pinned Envoy says of a request whose peer breaks, by each fault that cuts connections or spoils trust; and
that causes take it for what it is, by the caller's access log and by the answer alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import MeshHarness, Response

from testbed.model.fault import Fault
from testbed.pki import LabCa, Validity
from testbed.report.record import FaultSpan
from testbed.scenarios.causes import Manner, Scene, losses, manner_of
from testbed.scenarios.evidence import AccessLogEntry
from testbed.scenarios.ways import Ways
from testbed.traffic import Request, Sample, TrafficSpec
from testbed.waiting import NotYet, wait_until

INVENTORY = """
id: broken-peer
nodes: [{name: one}, {name: two}]
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}]}
workloads:
  - {service: web, version: v1, node: two, serviceAccount: web}
  - {service: client, version: v1, node: one, serviceAccount: client, program: none}
"""
RESOURCES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web}}
spec: {{host: web, trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: 2s}}, http: {{{pool}}}}}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec: {{hosts: [web], http: [{{route: [{{destination: {{host: web}}}}], retries: {{attempts: 0}}}}]}}
"""
KEPT, NEW = RESOURCES.format(pool=""), RESOURCES.format(pool="maxRequestsPerConnection: 1")
OLD = Validity(datetime.now(UTC) - timedelta(days=2), datetime.now(UTC) - timedelta(hours=2))
SILENCE = """table inet silence {
  chain leaves { type filter hook output priority 0; policy drop; }
  chain arrives { type filter hook input priority 0; policy drop; }
}"""
LAID = 0.5
"""Seconds until a proxy's workers use a certificate that its main thread lists."""
ACKNOWLEDGED = 0.5
"""Seconds until a kernel has surely acknowledged what it got: who was not would send again, and hear of the reset."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshHarness]:
    with MeshHarness.from_inventory(INVENTORY) as made:
        yield made


class Asked:
    """A request that is under way while something breaks."""

    def __init__(self, mesh: MeshHarness) -> None:
        self.mesh, self.found = mesh, list[Response]()
        self.thread = threading.Thread(target=lambda: self.found.extend(mesh.request("client-v1", "http://web/")))
        self.thread.start()

    def answer(self) -> Response:
        self.thread.join()
        return self.found[0]


def under_way(mesh: MeshHarness, established: bool) -> Asked:
    """The program has the request, or, of a proxy that stands, the kernel the first bytes of TLS."""
    asked = Asked(mesh)

    def arrived() -> None:
        if established and not mesh.backend_log("web-v1"):
            raise NotYet("not arrived")
        if not established:
            look = ["ss", "-Htn", "state", "established", "sport = :15006"]
            if not any(int(line.split()[0]) for line in mesh.command("web-v1", look).decode().splitlines()):
                raise NotYet("nothing that waits to be read")

    wait_until("the request arrives", arrived, limit=15, interval=0.02)
    return asked


def end(mesh: MeshHarness, pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    def gone() -> None:  # a process leaves its namespace after it has closed its sockets
        if left := set(pids) & set(mesh.processes("web-v1")):
            raise NotYet(f"processes {left}")

    wait_until("end of processes", gone, limit=10, interval=0.01)


def stand(mesh: MeshHarness) -> int:
    """Stop the proxy, of which the kernel goes on taking connections in."""
    pid = mesh.pid("web-v1")
    os.kill(pid, signal.SIGSTOP)
    return pid


def killed_with_a_request(mesh: MeshHarness) -> Response:
    mesh.control("web-v1", delay=20)
    asked = under_way(mesh, established=True)
    end(mesh, [mesh.pid("web-v1")])
    return asked.answer()


def killed_while_tls_begins(mesh: MeshHarness) -> Response:
    pid = stand(mesh)
    asked = under_way(mesh, established=False)
    end(mesh, [pid])
    return asked.answer()


def killed_before(mesh: MeshHarness) -> Response:
    end(mesh, [mesh.pid("web-v1")])
    return Asked(mesh).answer()


def stopped(mesh: MeshHarness) -> Response:
    pid = stand(mesh)
    try:
        return Asked(mesh).answer()
    finally:
        os.kill(pid, signal.SIGCONT)


def reset(mesh: MeshHarness) -> None:
    """The machine forgets all that it had, and nobody hears of it: what its kernel would say is thrown away, as
    packets behind a link that is down would be sent once it is up."""
    mesh.command("web-v1", ["nft", "-f", "-"], stdin=SILENCE.encode())
    mesh.command("web-v1", ["ss", "-HtK"])
    end(mesh, mesh.processes("web-v1"))
    mesh.command("web-v1", ["nft", "delete", "table", "inet", "silence"])


def reset_with_a_kept_connection(mesh: MeshHarness) -> Response:
    reset(mesh)
    return Asked(mesh).answer()


def reset_while_tls_begins(mesh: MeshHarness) -> Response:
    stand(mesh)
    asked = under_way(mesh, established=False)
    time.sleep(ACKNOWLEDGED)
    reset(mesh)
    return asked.answer()


def certificate(kind: str, who: str) -> Callable[[MeshHarness], Response]:
    def show(mesh: MeshHarness) -> Response:
        identity = mesh.topology.workload(who).spiffe_id(mesh.topology.trust_domain)
        ca = LabCa.create("foreign") if kind == "foreign" else mesh.ca
        mesh.replace_secret(who, ca.issue(identity, OLD) if kind == "expired" else ca.issue(identity))
        time.sleep(LAID)
        return Asked(mesh).answer()

    return show


@dataclass(frozen=True)
class Case:
    """``by`` and ``not_by``: faults that explain the loss, and that don't, as kind and target.  ``alone``: what the
    answer says by itself."""

    breaks: Callable[[MeshHarness], Response]
    resources: str
    flags: str
    reason: str
    manner: Manner
    alone: Manner
    by: tuple[str, ...]
    not_by: tuple[str, ...]


RST = "Connection_reset_by_peer"
TRUST = ("certificate-expired web-v1", "certificate-foreign web-v1", "clock-jump one", "clock-jump two")
LATE = ("certificate-expired client-v1", "certificate-foreign client-v1", "clock-jump two")
"""Who is refused sees a connection that broke, no more: causes can't tell it from one that a fault cut."""
DIED = ("sidecar-kill web-v1", "reset two", "power-off two")
NEITHER = ("certificate-rotated web-v1", "certificate-rotated client-v1", "service-hang web-v1")
CASES = {
    "sidecar killed with a request": Case(
        killed_with_a_request, KEPT, "UC", "", Manner.CUT, Manner.CUT, DIED, ("freeze two", *NEITHER)
    ),
    "sidecar killed while TLS begins": Case(
        killed_while_tls_begins, NEW, "UF", f"TLS_error:*{RST}", Manner.REFUSED, Manner.UNREACHED, DIED,
        (*TRUST, *NEITHER),
    ),
    "sidecar killed before": Case(
        killed_before, NEW, "UF", "Connection_refused", Manner.REFUSED, Manner.UNREACHED, DIED, (*TRUST, *NEITHER)
    ),
    "sidecar stopped": Case(
        stopped, NEW, "UF", "", Manner.REFUSED, Manner.REFUSED, ("sidecar-hang web-v1", "freeze two"),
        (*TRUST, *NEITHER),
    ),
    "machine reset under a kept connection": Case(
        reset_with_a_kept_connection, KEPT, "UC", "", Manner.CUT, Manner.CUT, DIED, ("freeze two", *NEITHER)
    ),
    "machine reset while TLS begins": Case(
        reset_while_tls_begins, NEW, "UF", "", Manner.REFUSED, Manner.REFUSED, (*DIED[1:], "freeze two"),
        (*TRUST, *NEITHER),
    ),
    **{
        f"{kind} certificate of the callee": Case(
            certificate(kind, "web-v1"), NEW, "UF", f"CERTIFICATE_VERIFY_FAILED:*{words}", Manner.UNTRUSTED,
            Manner.UNREACHED, TRUST, (*DIED, "freeze two", *NEITHER),
        )
        for kind, words in (("expired", "has_expired"), ("foreign", "unable_to_get_local_issuer_certificate"))
    },
    **{
        f"{kind} certificate of the caller": Case(
            certificate(kind, "client-v1"), NEW, "UC", "", Manner.CUT, Manner.CUT, LATE, ("freeze two", *NEITHER)
        )
        for kind in ("expired", "foreign")
    },
}  # fmt: skip


@pytest.fixture
def whole(mesh: MeshHarness, request: pytest.FixtureRequest) -> Iterator[Case]:
    """All works before it, and again after it."""
    case: Case = request.param
    mesh.control("web-v1")
    mesh.apply(case.resources)
    assert mesh.request("client-v1", "http://web/")[0].status == 200
    mesh.clear_logs()
    yield case
    if not mesh.command("web-v1", ["ss", "-Hltn", "sport = :8080"]):
        mesh._start_program("web-v1")
    if not Path(f"/proc/{mesh.pid('web-v1')}/exe").exists():
        mesh.backend.connection("web-v1").run(mesh.guest.command(mesh.guest.start, "web-v1"))


@pytest.mark.parametrize("whole", CASES.values(), ids=CASES, indirect=True)
def test_what_envoy_says_of_a_broken_peer_is_put_down_to_what_broke_it(mesh, whole):
    answer = whole.breaks(mesh)
    [line] = mesh.access_log("client-v1", 1)
    said = str(line["upstream_transport_failure_reason"] or "")
    assert (line["response_flags"], answer.status) == (whole.flags, 503)
    assert all(word in said for word in whole.reason.split("*")) and bool(said) == bool(whole.reason), said
    fields = {k: str(v) for k, v in line.items() if v is not None} | {"x_request_id": "run-0"}
    entry, sample = AccessLogEntry(fields), Sample(0, 0, 503, 5.0, 0.5, 1, {}, "", answer.body.decode())
    assert (manner_of(sample, entry), manner_of(sample, None)) == (whole.manner, whole.alone)
    for known in ([entry], []):
        assert explaining(mesh, sample, known, whole.by) == whole.by
    assert explaining(mesh, sample, [entry], whole.not_by) == ()


def explaining(
    mesh: MeshHarness, sample: Sample, entries: list[AccessLogEntry], faults: tuple[str, ...]
) -> tuple[str, ...]:
    """Which of these faults, each by itself, the loss would be put down to."""
    client, web = mesh.topology.workload("client-v1"), mesh.topology.workload("web-v1")
    spec = TrafficSpec("run", "240.240.0.1", 80, "web", (Request(),), 1)
    ways = Ways(mesh.topology, (client,), (web,), spec, {client.name: entries})
    found = []
    for words in faults:
        kind, target = words.split()
        fault = Fault.model_validate({"kind": kind, "target": target, **({"by": "1h"} if "jump" in kind else {})})
        nodes = (target,) if target in ("one", "two") else (mesh.topology.workload(target).node,)
        span = FaultSpan(fault.title, nodes, 4.0, 4.1, 7.0, 7.0, True, "it did", fault)
        [loss] = losses([sample], Scene([span], (), ways))
        if loss.cause:
            found.append(words)
    return tuple(found)
