"""One request along each edge of the mesh: does every caller reach every service that it may?

Which edges there are is asked of the compiled configuration: a caller and a service are one when the simulator
says that a request can reach one of the service's workloads.  What the configuration refuses is no edge.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from testbed.compiler import compile_mesh, service_addresses
from testbed.compiler.simulator import Simulator, parse_request
from testbed.errors import MeshError
from testbed.lab.lab import Lab
from testbed.lab.snapshots import ask
from testbed.model.topology import MeshWorkload, ProxyKind
from testbed.resources import ResourceSet
from testbed.workflows.mesh import security_of

PATH = "/health"
"""What is asked for: the sample services answer it themselves and call nobody for it."""
LIMIT = 20.0
"""Seconds for one answer; emulated machines make their first connections meanwhile."""


@dataclass(frozen=True)
class Edge:
    """A caller, a service's port, and the workloads that may answer."""

    caller: MeshWorkload
    host: str
    address: str
    port: int
    workloads: frozenset[str]

    def __str__(self) -> str:
        return f"{self.caller.name} -> {self.host}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What came back along an edge.  ``seconds`` from connecting to the answer's end."""

    edge: Edge
    status: int
    instance: str
    seconds: float
    error: str

    @property
    def right(self) -> bool:
        """Whether one of the service's own workloads answered."""
        return not self.error and 200 <= self.status < 500 and self.instance in self.edge.workloads


def edges_of(lab: Lab, resources: ResourceSet) -> Iterator[Edge]:
    """Every edge of the mesh as ``resources`` make it; HTTP only."""
    topology = lab.topology
    simulator = Simulator(compile_mesh(resources, topology, security=security_of(lab)), topology, resources)
    addresses = service_addresses(resources, topology)
    now = time.time()
    for caller in topology.workloads:
        if caller.kind is ProxyKind.GATEWAY:
            continue
        for service in topology.services:
            port = next((p for p in service.ports if p.protocol.is_http), None)
            if port is None:
                continue
            request = parse_request(caller.name, f"http://{service.host}:{port.number}{PATH}", "GET", (), now)
            reached = frozenset(simulator.explain(request).workloads())
            if reached:
                yield Edge(caller, service.host, addresses[service.host], port.number, reached)


def ask_edges(lab: Lab, resources: ResourceSet) -> list[Answer]:
    """Send one request along each edge of a lab that was restored, all nodes at once.

    Raises :class:`~testbed.errors.MeshError` naming the edges along which no workload of the service answered.
    """
    by_node: dict[str, list[Edge]] = {}
    for edge in edges_of(lab, resources):
        by_node.setdefault(edge.caller.node, []).append(edge)
    with ThreadPoolExecutor(max_workers=max(1, len(by_node))) as pool:
        asked = pool.map(lambda node: _ask(lab, node, by_node[node]), by_node)
        answers = [answer for of_node in asked for answer in of_node]
    wrong = [a for a in answers if not a.right]
    if wrong:
        first = wrong[0]
        said = first.error or f"status {first.status} from {first.instance or 'a proxy'}"
        more = f" (and {len(wrong) - 1} more of {len(answers)} edges)" if wrong[1:] else ""
        raise MeshError(str(first.edge), "send a request", said + more, "see: testbed status, testbed proxy")
    return answers


def _ask(lab: Lab, node: str, edges: list[Edge]) -> list[Answer]:
    document: Mapping[str, object] = {
        "do": "edges",
        "limit": LIMIT,
        "requests": [
            {"namespace": e.caller.name, "address": e.address, "port": e.port, "host": e.host, "path": PATH}
            for e in edges
        ],
    }
    limit = LIMIT * max(1, len(edges))
    answers = ask(lab.connection(node), document, limit)
    return [Answer(edge, *said) for edge, said in zip(edges, answers, strict=True)]
