"""The judge of encryption on the wire."""

from __future__ import annotations

from ipaddress import IPv4Address

from testbed.model.expectation import Encrypted
from testbed.model.verdict import Verdict, failed, inconclusive, not_applicable, passed
from testbed.scenarios.evidence import Control, Evidence
from testbed.scenarios.judge import Afterwards, Terms
from testbed.scenarios.wire import (
    HBONE_PORT,
    Flow,
    Stream,
    is_client_hello,
    markers,
    read_capture,
    server_name,
    streams,
)

HBONE = "a tunnel (HBONE) to "


class EncryptedJudge(Afterwards):
    """A capture on the caller's machine: TLS with the service's SNI, or HBONE, and the marker nowhere.

    The marker is the run's random name, which every request carries in ``x-testbed-request``.  That a capture would
    have shown it, a step before must have shown: the positive control, with the same caller, service and protocol.
    """

    name = "encrypted"

    def __init__(self, expected: Encrypted, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """Flows inside one machine cross no wire: NOT_APPLICABLE.  A capture that saw no flow says nothing."""
        caller = evidence.caller
        if caller is None:
            return inconclusive("traffic from outside is no flow between workloads")
        instances = evidence.lab.of_name(self.expected.service)
        servers = [w for w in instances if w.node != caller.node]
        if instances and not servers:
            return not_applicable(
                f"{caller.name} and {self.expected.service} share a machine: no wire between them"
            )
        if evidence.capture is None:
            return not_applicable("captures can't be taken in this lab")
        at = evidence.lab.backend.wire_addresses
        flows = _between(at(caller.name), frozenset().union(*(at(w.name) for w in servers)), evidence.capture)
        if not flows:
            return inconclusive("the capture saw nothing of the flow")
        marks = markers(evidence.spec.run)
        seen = [flow for flow, stream in flows.items() if any(m in stream.data for m in marks)]
        names = {n for stream in flows.values() if (n := server_name(bytes(stream.data)))}
        tunnels = {f"{HBONE}{flow[2]}" for flow, stream in flows.items() if _is_tunnel(flow, stream)}
        numbers = {"connections": float(len(flows)), "with the marker": float(len(seen))}
        control = (caller.name, self.expected.service, evidence.spec.protocol)
        if self.expected.plaintext:
            return self._control(control, evidence, seen, names | tunnels, numbers)
        broken = self._broken(flows, seen, names, numbers)
        return broken or self._tls(control, evidence, flows, names | tunnels, numbers)

    def _control(
        self, control: Control, evidence: Evidence, seen: list[Flow], names: set[str], numbers: dict[str, float]
    ) -> Verdict:
        if seen:
            evidence.controls.add(control)
            return passed("positive control: with mTLS off the marker is seen on the wire", numbers)
        if names:
            return failed(f"mTLS is not off: a handshake for {min(names)} was seen", numbers)
        return inconclusive("neither the marker nor a handshake was seen: the capture is broken", numbers)

    def _broken(
        self, flows: dict[Flow, Stream], seen: list[Flow], names: set[str], numbers: dict[str, float]
    ) -> Verdict | None:
        """What shows by itself that there is no TLS, or somebody else's."""
        if seen:
            source, _, target, port = seen[0]
            return failed(f"the marker was seen in plaintext from {source} to {target}:{port}", numbers)
        if plain := [flow for flow, stream in flows.items() if stream.is_plaintext]:
            source, _, target, port = plain[0]
            start = bytes(flows[plain[0]].beginning or flows[plain[0]].data)[:16]
            return failed(f"what {source} sent to {target}:{port} begins without TLS: {start!r}", numbers)
        if wrong := [n for n in names if f".{self.expected.service}." not in n]:
            return failed(f"the handshake names {wrong[0]}, not {self.expected.service}", numbers)
        return None

    def _tls(
        self,
        control: Control,
        evidence: Evidence,
        flows: dict[Flow, Stream],
        names: set[str],
        numbers: dict[str, float],
    ) -> Verdict:
        if not names:
            return inconclusive("no TLS handshake was seen: the connections are older than the capture", numbers)
        if unknown := sum(not stream.is_tls for stream in flows.values()):
            return inconclusive(f"{unknown} flows are older than the capture, and may be anything", numbers)
        if control not in evidence.controls:
            asked = f"encrypted: {{service: {self.expected.service}, plaintext: true}} with mTLS off"
            return inconclusive(f"nothing shows that the capture works: no step before passed {asked}", numbers)
        return passed(f"TLS for {min(names)}, and the marker nowhere in {len(self.samples)} requests", numbers)


def _between(caller: frozenset[IPv4Address], servers: frozenset[IPv4Address], capture: bytes) -> dict[Flow, Stream]:
    """Both directions between the two."""
    return streams(
        s
        for s in read_capture(capture)
        if (s.source in caller and s.target in servers) or (s.target in caller and s.source in servers)
    )


def _is_tunnel(flow: Flow, stream: Stream) -> bool:
    """Whether a tunnel of ambient mode was begun there: mutual TLS that names the pod by its address alone."""
    start = bytes(stream.beginning or stream.data)
    return flow[3] == HBONE_PORT and is_client_hello(start) and not server_name(start)
