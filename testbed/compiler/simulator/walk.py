"""A request's way through the compiled proxies, with every turn that it can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from testbed.compiler.simulator import listeners
from testbed.compiler.simulator.explanation import Decision, Hop, Origin, Outcome
from testbed.compiler.simulator.matching import parse_address
from testbed.compiler.simulator.origins import Origins
from testbed.compiler.simulator.policies import Finding, Subject, evaluate
from testbed.compiler.simulator.proxy import SimulatedProxy
from testbed.compiler.simulator.request import Connection, Http
from testbed.compiler.simulator.upstream import Target, targets
from testbed.model.topology import MeshWorkload, ProxyKind, Topology

MAX_HOPS = 12


@dataclass(frozen=True)
class Trail:
    """How a request came to where it is, and how likely that was."""

    probability: Fraction = Fraction(1)
    hops: tuple[Hop, ...] = ()
    cluster: str = ""

    def at(self, proxy: str, side: str) -> Trail:
        """The trail with a hop begun."""
        return replace(self, hops=(*self.hops, Hop(proxy, side)))

    def noted(self, what: str, name: str, detail: str = "", origin: Origin | None = None) -> Trail:
        """The trail with a decision of the current hop."""
        *before, hop = self.hops
        decision = Decision(what, name, detail, origin)
        return replace(self, hops=(*before, replace(hop, decisions=(*hop.decisions, decision))))

    def likely(self, share: Fraction) -> Trail:
        """The trail of a branch."""
        return replace(self, probability=self.probability * share)

    def ends(self, status: int | None, answered_by: str, reason: str, workload: str = "") -> Outcome:
        """The end of it."""
        return Outcome(self.probability, status, answered_by, reason, self.cluster, workload, self.hops)

    def refused(self, status: int, reason: str) -> Outcome:
        """The current proxy answers itself."""
        return self.ends(status, f"the proxy of {self.hops[-1].proxy}", reason)


@dataclass(frozen=True)
class Place:
    """The proxy that a request is at."""

    proxy: SimulatedProxy
    workload: MeshWorkload
    side: str


@dataclass
class Walk:
    """All proxies, and the moment at which the request is sent."""

    proxies: Mapping[str, SimulatedProxy]
    topology: Topology
    origins: Origins
    now: float = 0.0
    _by_address: Mapping[str, MeshWorkload] = field(init=False)

    def __post_init__(self) -> None:
        self._by_address = {str(w.address): w for w in self.topology.workloads}

    def leave(self, workload: MeshWorkload, connection: Connection, http: Http | None) -> Iterator[Outcome]:
        """A program of ``workload`` opens a connection, which its sidecar takes."""
        place = Place(self.proxies[workload.name], workload, "outbound")
        listener = listeners.outbound_listener(place.proxy, connection)
        trail = Trail().at(workload.name, "outbound")
        yield from self._enter(place, listener, connection, http, trail)

    def arrive(
        self, workload: MeshWorkload, connection: Connection, http: Http | None, trail: Trail
    ) -> Iterator[Outcome]:
        """A connection reaches ``workload``: its sidecar from the mesh's side, or the gateway itself."""
        if workload.name not in self.proxies:
            yield trail.ends(None, f"workload {workload.name}", "it has no proxy", workload.name)
            return
        side = "gateway" if workload.kind is ProxyKind.GATEWAY else "inbound"
        place = Place(self.proxies[workload.name], workload, side)
        trail = trail.at(workload.name, side)
        if len(trail.hops) > MAX_HOPS:
            yield trail.refused(0, f"it goes round in a circle: more than {MAX_HOPS} proxies")
            return
        listener = listeners.inbound_listener(place.proxy, connection)
        yield from self._enter(place, listener, connection, http, trail)

    def _enter(
        self, place: Place, listener: Any | None, connection: Connection, http: Http | None, trail: Trail
    ) -> Iterator[Outcome]:
        if listener is None:
            yield trail.refused(0, f"nothing listens on port {connection.port}")
            return
        chain = listeners.filter_chain(listener, connection, http is not None)
        if chain is None:
            sort = "TLS" if connection.tls else "plaintext"
            reason = f"no filter chain of {listener.name} takes {sort} on port {connection.port}"
            yield trail.noted("listener", listener.name).refused(0, reason)
            return
        trail = trail.noted("listener", listener.name, f"filter chain {chain.name}" if chain.name else "")
        if chain.tls is None:
            # a connection that stays encrypted is opaque: neither requests nor identities can be read
            connection = replace(connection, identity="")
            http = None if connection.tls else http
        elif not connection.tls:
            yield trail.refused(0, "plaintext where TLS is required")
            return
        elif chain.tls.require_client_certificate.value and not connection.identity:
            yield trail.refused(0, "the caller shows no certificate")
            return
        yield from self._network(place, chain, connection, http, trail)

    def _network(
        self, place: Place, chain: listeners.Chain, connection: Connection, http: Http | None, trail: Trail
    ) -> Iterator[Outcome]:
        from testbed.compiler.simulator.http import HttpWalk

        for _, config in chain.filters:
            kind = config.DESCRIPTOR.full_name
            if kind == "envoy.extensions.filters.network.rbac.v3.RBAC":
                subject = Subject(connection, None, connection.source)
                finding = evaluate(config.rules, subject) if config.HasField("rules") else None
                if finding is not None:
                    trail = self.note_policy(trail, finding)
                    if not finding.allowed:
                        yield trail.refused(0, _denial(finding))
                        return
            elif kind.endswith(".network.ext_authz.v3.ExtAuthz"):
                trail = trail.noted("authorizer", "", "asked about connections; taken to agree")
            elif kind.endswith(".HttpConnectionManager"):
                if http is None:
                    yield trail.refused(0, "what comes is no HTTP that the proxy could read")
                else:
                    yield from HttpWalk(self, place, config, connection).request(http, trail)
                return
            elif kind.endswith(".tcp_proxy.v3.TcpProxy"):
                yield from self._tcp(place, config, connection, http, trail)
                return
        yield trail.refused(0, "the filter chain leads nowhere")

    def _tcp(
        self, place: Place, config: Any, connection: Connection, http: Http | None, trail: Trail
    ) -> Iterator[Outcome]:
        weighted = config.weighted_clusters.clusters
        if not weighted:
            yield from self.upstream(place, config.cluster, connection, http, trail)
        total = sum(c.weight for c in weighted)
        for part in weighted:
            branch = trail.likely(Fraction(part.weight, total))
            yield from self.upstream(place, part.name, connection, http, branch)

    def note_policy(self, trail: Trail, finding: Finding) -> Trail:
        """The trail with what an RBAC filter said."""
        if finding.policy:
            detail = {"ALLOW": "allows", "DENY": "denies"}.get(finding.action, "takes note")
            return trail.noted("policy", finding.policy, detail, self.origins.policy(finding.policy))
        if finding.action == "ALLOW":
            others = f", nor any of {len(finding.asked) - 1} others" if len(finding.asked) > 1 else ""
            first = finding.asked[0] if finding.asked else ""
            return trail.noted("policy", first, f"does not match{others}", self.origins.policy(first))
        return trail

    def upstream(
        self,
        place: Place,
        name: str,
        connection: Connection,
        http: Http | None,
        trail: Trail,
        failure: int = 0,
        unknown: int = 0,
    ) -> Iterator[Outcome]:
        """Send on to a cluster.  ``failure``: what the caller gets when nobody can be reached (0: a closed
        connection), ``unknown``: when there is no such cluster.
        """
        trail = replace(trail, cluster=name)
        cluster = place.proxy.clusters.get(name)
        if cluster is None:
            yield trail.noted("cluster", name, "there is no such cluster").refused(
                unknown, f"unknown cluster {name}"
            )
            return
        found = targets(place.proxy, cluster, connection, place.side == "inbound")
        if not found:
            yield trail.noted("cluster", name, "no endpoints", self.origins.cluster(cluster)).refused(
                failure, f"{name} has no healthy endpoint"
            )
            return
        total = sum(t.weight for t in found)
        for target in found:
            branch = trail.likely(Fraction(target.weight) / total)
            branch = branch.noted("cluster", name, target.description, self.origins.cluster(cluster))
            for outcome in self._reach(place, target, http, branch):
                # a connection that the other side closes is a 503 of this proxy for its HTTP caller
                yield replace(outcome, status=failure) if outcome.status == 0 else outcome

    def _reach(self, place: Place, target: Target, http: Http | None, trail: Trail) -> Iterator[Outcome]:
        workload = self._by_address.get(target.address)
        if target.local or (
            workload is not None and workload.name == place.workload.name and place.side == "inbound"
        ):
            yield self._program(place.workload, target.port, http, trail)
            return
        if workload is None and in_range(target.address, self.topology.service_range):
            yield trail.refused(0, f"{target.address} is a service's address: nobody answers on it but proxies")
            return
        if workload is None:
            yield trail.ends(None, f"host {target.address}:{target.port}", "it lies outside the mesh")
            return
        names = target.server_names
        identity = workload.spiffe_id(self.topology.trust_domain)
        if target.mutual and names and not any(accepts(identity) for accepts in names):
            yield trail.refused(0, f"{workload.name} is {identity}, which the cluster does not accept")
            return
        connection = Connection(
            source=place.workload.address,
            destination=workload.address,
            port=target.port,
            tls=target.tls,
            alpn=(http.alpn if http is not None else ()) or target.alpn,
            sni=target.sni,
            identity=place.workload.spiffe_id(self.topology.trust_domain) if target.mutual else "",
        )
        yield from self.arrive(workload, connection, replace(http, alpn=()) if http else None, trail)

    def _program(self, workload: MeshWorkload, port: int, http: Http | None, trail: Trail) -> Outcome:
        if port not in {p.target for p in workload.ports}:
            return trail.refused(0, f"no program of {workload.name} listens on {port}")
        asked = f"{http.method} {http.headers.get(':path', '/')}" if http is not None else "the connection"
        return trail.ends(
            None, f"workload {workload.name}", f"its program gets {asked} on port {port}", workload.name
        )


def in_range(address: str, network: IPv4Network) -> bool:
    """Whether it is an address (and no name) of that network."""
    parsed = parse_address(address)
    return isinstance(parsed, IPv4Address) and parsed in network


def _denial(finding: Finding) -> str:
    return f"denied by {finding.policy}" if finding.policy else "no ALLOW rule matches"
