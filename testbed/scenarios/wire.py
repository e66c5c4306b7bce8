"""What went over the wire between machines: a reader of captures, and the judge of encryption."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from testbed.errors import LabError
from testbed.model.expectation import Encrypted
from testbed.model.verdict import Verdict, failed, inconclusive, not_applicable, passed
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import Afterwards, Terms

LINK_HEADERS = {1: (12, 14), 113: (14, 16), 276: (0, 20)}
"""libpcap's link type -> where the EtherType stands, and how long the header is (Ethernet, SLL, SLL2)."""


Flow = tuple[IPv4Address, int, IPv4Address, int]
"""One direction of a connection: source, its port, target, its port."""


@dataclass(frozen=True)
class Segment:
    """The payload of one TCP segment over IPv4, and where it went."""

    source: IPv4Address
    target: IPv4Address
    source_port: int
    target_port: int
    payload: bytes


def read_capture(content: bytes) -> Iterator[Segment]:
    """TCP segments with a payload, from a classic pcap file (what ``tcpdump -w`` writes; both byte orders).

    Raises LabError for another format; a last packet that is cut off is left out.
    """
    if not content:
        return
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(content[:4])
    link = struct.unpack(f"{order}I", content[20:24])[0] & 0xFFFF if order and len(content) >= 24 else -1
    if order is None or link not in LINK_HEADERS:
        raise LabError("capture", "read it", "it is no pcap file of Ethernet or Linux cooked packets")
    type_at, header = LINK_HEADERS[link]
    offset = 24
    while offset + 16 <= len(content):
        length = struct.unpack_from(f"{order}I", content, offset + 8)[0]
        packet = content[offset + 16 : offset + 16 + length]
        offset += 16 + length
        if len(packet) >= header + 20 and packet[type_at : type_at + 2] == b"\x08\x00":
            yield from _segment(packet[header:])


def _segment(ip: bytes) -> Iterator[Segment]:
    start = (ip[0] & 15) * 4
    total = int.from_bytes(ip[2:4])
    if ip[9] != 6 or len(ip) < start + 20:
        return
    payload = ip[start + (ip[start + 12] >> 4) * 4 : total or len(ip)]
    if payload:
        ports = struct.unpack_from(">HH", ip, start)
        yield Segment(IPv4Address(ip[12:16]), IPv4Address(ip[16:20]), ports[0], ports[1], payload)


def server_name(payload: bytes) -> str:
    """The SNI of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3); empty when there is none."""
    try:
        if payload[0] != 22 or payload[5] != 1:
            return ""
        at = 5 + 4 + 2 + 32
        at += 1 + payload[at]  # session id
        at += 2 + int.from_bytes(payload[at : at + 2])  # cipher suites
        at += 1 + payload[at]  # compression methods
        end = at + 2 + int.from_bytes(payload[at : at + 2])
        at += 2
        while at + 4 <= end:
            kind, length = struct.unpack_from(">HH", payload, at)
            if kind == 0:
                size = int.from_bytes(payload[at + 7 : at + 9])
                return payload[at + 9 : at + 9 + size].decode("ascii", "replace")
            at += 4 + length
    except (IndexError, struct.error):
        pass
    return ""


def _streams(segments: Iterable[Segment]) -> dict[Flow, bytes]:
    """The bytes of each direction of each connection, in the order of the capture."""
    streams: dict[Flow, bytearray] = {}
    for s in segments:
        streams.setdefault((s.source, s.source_port, s.target, s.target_port), bytearray()).extend(s.payload)
    return {flow: bytes(data) for flow, data in streams.items()}


class EncryptedJudge(Afterwards):
    """A capture on the caller's machine: TLS with the service's SNI, and the marker nowhere.

    The marker is the run's random name, which every request carries in ``x-testbed-request``.
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
        if not instances:
            return inconclusive(f"the lab has no {self.expected.service}")
        if not servers:
            return not_applicable(
                f"{caller.name} and {self.expected.service} share a machine: no wire between them"
            )
        if evidence.capture is None:
            return not_applicable("captures can't be taken in this lab")
        addresses = {w.address for w in servers}
        flows = _streams(
            s
            for s in read_capture(evidence.capture)
            if (s.source == caller.address and s.target in addresses)
            or (s.target == caller.address and s.source in addresses)
        )
        marker = evidence.spec.run.encode()
        plain = [flow for flow, data in flows.items() if marker in data]
        names = {n for data in flows.values() if (n := server_name(data))}
        numbers = {"connections": float(len(flows)), "with the marker": float(len(plain))}
        if not flows:
            return inconclusive("the capture saw nothing of the flow", numbers)
        return self._control(plain, names, numbers) if self.expected.plaintext else self._tls(plain, names, numbers)

    def _control(self, plain: list[Flow], names: set[str], numbers: dict[str, float]) -> Verdict:
        if plain:
            return passed("positive control: with mTLS off the marker is seen on the wire", numbers)
        if names:
            return failed(f"mTLS is not off: a handshake for {min(names)} was seen", numbers)
        return inconclusive("neither the marker nor a handshake was seen: the capture is broken", numbers)

    def _tls(self, plain: list[Flow], names: set[str], numbers: dict[str, float]) -> Verdict:
        if plain:
            source, _, target, port = plain[0]
            return failed(f"the marker was seen in plaintext from {source} to {target}:{port}", numbers)
        if not names:
            return inconclusive("no TLS handshake was seen: the connections are older than the capture", numbers)
        wrong = [n for n in names if f".{self.expected.service}." not in n]
        if wrong:
            return failed(f"the handshake names {wrong[0]}, not {self.expected.service}", numbers)
        return passed(f"TLS for {min(names)}, and the marker nowhere in {len(self.samples)} requests", numbers)
