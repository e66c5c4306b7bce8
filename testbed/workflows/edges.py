"""One request along each edge of the mesh: does every caller reach every service that it may?

Which edges there are is asked of the compiled configuration: a caller and a service are one when the simulator
says that a request can reach one of the service's workloads.  What the configuration refuses is no edge.  A gateway
has one for each route that leads in through it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from testbed.compiler import service_addresses
from testbed.compiler.simulator import Simulator, parse_request
from testbed.errors import MeshError
from testbed.lab.lab import Lab
from testbed.lab.snapshots import ask
from testbed.model.proxy import ProxyConfiguration
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources import ResourceSet
from testbed.resources.virtual_service import HTTPRoute

PATH = "/health"
"""What is asked for: the sample services answer it themselves and call nobody for it."""
LIMIT = 20.0
"""Seconds for one answer; emulated machines make their first connections meanwhile."""


@dataclass(frozen=True)
class Edge:
    """A caller, a service's port, and the workloads that may answer.

    With a gateway as the caller it is a way in: the request is sent to the gateway itself.
    """

    caller: MeshWorkload
    host: str
    address: str
    port: int
    workloads: frozenset[str]
    path: str = PATH

    def __str__(self) -> str:
        way_in = self.path if self.caller.kind is ProxyKind.GATEWAY else ""
        return f"{self.caller.name} -> {self.host}:{self.port}{way_in}"


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


def edges_of(
    topology: Topology, resources: ResourceSet, configurations: Mapping[str, ProxyConfiguration]
) -> Iterator[Edge]:
    """Every edge of the mesh as ``resources`` make it, of which ``configurations`` were compiled; HTTP only."""
    simulator = Simulator(configurations, topology, resources)
    addresses = service_addresses(resources, topology)
    now = time.time()
    for caller in topology.workloads:
        if caller.kind is ProxyKind.GATEWAY:
            asked = [(host, str(caller.address), port, path) for host, port, path in _ways_in(resources)]
        else:
            asked = [
                (service.host, addresses[service.host], port.number, PATH)
                for service in topology.services
                if (port := next((p for p in service.ports if p.protocol.is_http), None))
            ]
        for host, address, number, path in asked:
            request = parse_request(caller.name, f"http://{host}:{number}{path}", "GET", (), now)
            reached = frozenset(simulator.explain(replace(request, source_address=str(caller.address))).workloads())
            if reached:
                yield Edge(caller, host, address, number, reached, path)


def _ways_in(resources: ResourceSet) -> list[tuple[str, int, str]]:
    """Host, port and path of a request for each route from outside; which gateway has it, the simulator knows."""
    ports = {
        server.port.number
        for gateway in resources.gateways
        for server in gateway.spec.servers
        if server.port.protocol.upper().startswith("HTTP") and server.tls is None
    }
    ways = {
        (service.spec.hosts[0].replace("*", "lab").lstrip("."), port, path)
        for service in resources.virtual_services
        if set(service.spec.gateways) - {"mesh"}
        for route in service.spec.http
        for path in _paths(route)
        for port in ports
    }
    return sorted(ways)


def _paths(route: HTTPRoute) -> Iterator[str]:
    """A path for the route's first match, where one can be told."""
    uri = route.match[0].uri if route.match else None
    if uri is None:
        yield PATH
    elif uri.exact or uri.prefix:
        yield uri.exact or uri.prefix or ""


def ask_edges(lab: Lab, edges: Iterable[Edge]) -> list[Answer]:
    """Send one request along each edge of a lab that was restored, all at once.

    Raises :class:`~testbed.errors.MeshError` naming the edges along which no workload of the service answered.
    """
    by_node: dict[str, list[Edge]] = {}
    for edge in edges:
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
            {"namespace": e.caller.name, "address": e.address, "port": e.port, "host": e.host, "path": e.path}
            for e in edges
        ],
    }
    answers = ask(lab.connection(node), document, LIMIT * 2)
    return [Answer(edge, *said) for edge, said in zip(edges, answers, strict=True)]
