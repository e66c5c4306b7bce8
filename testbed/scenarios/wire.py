"""What went over the wire between machines: a reader of captures."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from testbed.errors import LabError

LINK_HEADERS = {1: (12, 14), 113: (14, 16), 276: (0, 20)}
"""libpcap's link type -> where the EtherType stands, and how long the header is (Ethernet, SLL, SLL2)."""
HBONE_PORT = 15008
"""Where ztunnels, and Envoys that speak with them, take tunnels; their handshakes name nobody."""
SYN = 0x02
PLAINTEXT = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE) |HTTP/1\.|PRI \* HTTP/2")
"""How one direction of a connection begins that is HTTP without TLS (RFC 9112 3 and 4, RFC 9113 3.4)."""

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
    opens: bool = False
    """Whether it is the first of its direction (SYN)."""
    sequence: int = 0
    """TCP's number of the payload's first byte; a SYN counts as one byte (RFC 9293 3.4)."""


def read_capture(content: bytes) -> Iterator[Segment]:
    """TCP segments that open a direction or have a payload, from a classic pcap file (what ``tcpdump -w`` writes;
    both byte orders).

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
    opens = bool(ip[start + 13] & SYN)
    if payload or opens:
        source_port, target_port, sequence = struct.unpack_from(">HHI", ip, start)
        source, target = IPv4Address(ip[12:16]), IPv4Address(ip[16:20])
        yield Segment(source, target, source_port, target_port, payload, opens, sequence)


def server_name(payload: bytes) -> str:
    """The SNI of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3); empty when there is none."""
    try:
        if not is_client_hello(payload):
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


def is_client_hello(payload: bytes) -> bool:
    """Whether it begins with a TLS ClientHello (RFC 8446 4.1.2)."""
    return len(payload) > 5 and payload[0] == 22 and payload[5] == 1


@dataclass
class Stream:
    """One direction of a connection."""

    data: bytearray = field(default_factory=bytearray)
    """Its bytes in the order of the capture, which packets that were lost and sent again may have changed."""
    expected: int | None = None
    """The number of its first byte; None where its beginning was not captured."""
    beginning: bytes = b""
    """What it begins with, where that was captured."""

    def take(self, segment: Segment) -> None:
        """One more segment."""
        if segment.opens:
            self.expected = (segment.sequence + 1) % 2**32
        elif segment.sequence == self.expected and not self.beginning:
            self.beginning = segment.payload
        self.data.extend(segment.payload)

    @property
    def is_tls(self) -> bool:
        """Whether it begins with a record of TLS (RFC 8446 5.1)."""
        start = self.beginning or self.data
        return len(start) >= 2 and 20 <= start[0] <= 23 and start[1] == 3

    @property
    def is_plaintext(self) -> bool:
        """Whether it begins with anything else."""
        return not self.is_tls and bool(self.beginning or PLAINTEXT.match(self.data))


def streams(segments: Iterable[Segment]) -> dict[Flow, Stream]:
    """Each direction of each connection that has said something."""
    found: dict[Flow, Stream] = {}
    for s in segments:
        found.setdefault((s.source, s.source_port, s.target, s.target_port), Stream()).take(s)
    return {flow: stream for flow, stream in found.items() if stream.data}


_FIVE, _SIX = "012ace", "3456789bdf-"
HUFFMAN = {c: f"{code:05b}" for c, code in zip(_FIVE, (0, 1, 2, 3, 4, 5), strict=True)} | {
    c: f"{code:06b}" for c, code in zip(_SIX, (25, 26, 27, 28, 29, 30, 31, 35, 36, 37, 22), strict=True)
}
"""HPACK's code (RFC 7541, appendix B) of what a run's name is made of."""


def markers(run: str) -> tuple[bytes, ...]:
    """How the ids of a run's requests begin on the wire: as they are, and as HTTP/2 may write them in a header.

    A string begins with a byte there, too (RFC 7541 5.2).  The last bits depend on what follows: they are left out.
    """
    bits = "".join(HUFFMAN[c] for c in f"{run}-") if set(run) <= HUFFMAN.keys() else ""
    coded = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))
    return (run.encode(), *([coded] if len(coded) >= CODED else []))


CODED = 5
"""Bytes that are no coincidence."""
