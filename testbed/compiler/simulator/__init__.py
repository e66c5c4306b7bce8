"""Where would this request go?  Answered from the compiled configuration, without sending anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address

from testbed.compiler.registration import service_addresses
from testbed.compiler.simulator.explanation import Decision, Explanation, Hop, Origin, Outcome, merged
from testbed.compiler.simulator.origins import Origins
from testbed.compiler.simulator.proxy import SimulatedProxy
from testbed.compiler.simulator.request import Connection, SimulatedRequest, parse_request
from testbed.compiler.simulator.walk import Trail, Walk
from testbed.errors import bad_input
from testbed.model.proxy import ProxyConfiguration
from testbed.model.topology import MeshWorkload, ProxyKind, Topology
from testbed.resources.resource import ResourceSet

__all__ = [
    "Decision",
    "Explanation",
    "Hop",
    "Origin",
    "Outcome",
    "SimulatedRequest",
    "Simulator",
    "explain",
    "parse_request",
]

_OUTSIDE = "192.0.2.1"
"""Stands for the address of a name that only DNS knows (RFC 5737 keeps it for such use)."""


class Simulator:
    """The compiled mesh, ready to be asked many requests; each proxy is read once, when it is first met."""

    def __init__(
        self, configurations: Mapping[str, ProxyConfiguration], topology: Topology, resources: ResourceSet
    ) -> None:
        self._topology = topology
        self._proxies = {name: SimulatedProxy(c) for name, c in configurations.items()}
        self._origins = Origins(resources)
        self._addresses = service_addresses(resources, topology)

    def explain(self, request: SimulatedRequest) -> Explanation:
        """Every outcome of ``request``.  Raises :class:`BadInput` for a workload that is not there."""
        workload = self._workload(request.source)
        walk = Walk(self._proxies, self._topology, self._origins, request.time)
        http = None if request.scheme in ("tcp", "https") else request.http()
        asked = f"{request.method} {request.url} from {request.source}"
        encrypted = request.scheme == "https"
        if workload.kind is ProxyKind.GATEWAY:
            http = request.http() if request.scheme != "tcp" else None
            connection = Connection(
                ip_address(request.source_address),
                workload.address,
                request.port,
                tls=encrypted,
                alpn=("h2", "http/1.1") if encrypted else (),
                sni=request.host if encrypted else "",
            )
            return Explanation(asked, merged(list(walk.arrive(workload, connection, http, Trail()))))
        address = self._resolved(request.host, workload)
        if address is None:
            reason = f"{request.host} is no name that {workload.name} can resolve"
            return Explanation(asked, (Outcome(Fraction(1), 0, f"workload {workload.name}", reason),))
        connection = Connection(workload.address, ip_address(address), request.port)
        if encrypted:
            connection = replace(connection, tls=True, alpn=("h2", "http/1.1"), sni=request.host)
        return Explanation(asked, merged(list(walk.leave(workload, connection, http))))

    def _workload(self, name: str) -> MeshWorkload:
        known = [w for w in self._topology.workloads if w.name == name]
        if not known or name not in self._proxies:
            names = ", ".join(sorted(self._proxies)) or "none"
            raise bad_input("--from", f"there is no workload {name!r}", f"take one of: {names}")
        return known[0]

    def _resolved(self, host: str, workload: MeshWorkload) -> str | None:
        """The address of a name, as the guest's hosts file has it; names on the Internet get a stand-in."""
        try:
            return str(ip_address(host))
        except ValueError:
            pass
        name = host.lower().removesuffix(".")
        for full in (name, f"{name}.{workload.namespace}.svc.cluster.local", f"{name}.svc.cluster.local"):
            if full in self._addresses:
                return self._addresses[full]
        if name.endswith(".svc") and f"{name}.cluster.local" in self._addresses:
            return self._addresses[f"{name}.cluster.local"]
        return _OUTSIDE if "." in name and not name.endswith(".cluster.local") else None


def explain(
    configurations: Mapping[str, ProxyConfiguration],
    topology: Topology,
    resources: ResourceSet,
    request: SimulatedRequest,
) -> Explanation:
    """Every outcome of one request over the configuration of all proxies (see :class:`Simulator`)."""
    return Simulator(configurations, topology, resources).explain(request)
