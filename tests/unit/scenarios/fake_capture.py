"""Captures made by hand: pcap files with one TCP segment each."""

import struct
from ipaddress import IPv4Address


def segment(
    source: str, target: str, payload: bytes, *, port: int = 40000, to: int = 80, syn: bool = False, at: int = 0
) -> bytes:
    """``at``: how many bytes come before it."""
    tcp = (
        struct.pack(">HHIIBBHHH", port, to, 7 if syn else 8 + at, 1, 5 << 4, 0x02 if syn else 0x18, 1000, 0, 0)
        + payload
    )
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0)
    return b"\0" * 12 + b"\x08\x00" + head + IPv4Address(source).packed + IPv4Address(target).packed + tcp


def pcap(*packets: bytes) -> bytes:
    content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for packet in packets:
        content += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    return content


def client_hello(name: str) -> bytes:
    """Without a name there is no server_name extension."""
    entry = b"\0" + struct.pack(">H", len(name)) + name.encode()
    sni = struct.pack(">HHH", 0, len(entry) + 2, len(entry)) + entry if name else b""
    other = struct.pack(">HH", 43, 3) + b"\x02\x03\x04"
    body = b"\x03\x03" + b"r" * 32 + b"\x20" + b"s" * 32 + struct.pack(">H", 2) + b"\x13\x01" + b"\x01\x00"
    body += struct.pack(">H", len(other + sni)) + other + sni
    hello = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + struct.pack(">H", len(hello)) + hello
