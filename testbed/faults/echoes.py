"""Echo requests and what becomes of them; run on a machine, as text, with its arguments as JSON:

    {"to": [address...], "count": N, "interval": seconds, "burst": N, "wait": seconds}

Prints JSON: whom it asked, when each answer came (number of the request, seconds since that, seconds since the
first one), and the same of a burst of large ones.  Standard library only, of any Python from 3.8 on; needs root.
"""

import json
import os
import select
import socket
import struct
import sys
import time

LARGE = 1400
"""Bytes of a large request's payload."""
FRAME = LARGE + 42
"""Its length on the wire, with the headers of ICMP, IP and Ethernet."""


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(ident: int, number: int, size: int) -> bytes:
    """An echo request (RFC 792)."""
    body = struct.pack("!HH", ident, number) + bytes(size)
    return struct.pack("!BBH", 8, 0, checksum(b"\x08\x00\x00\x00" + body)) + body


def echoes(to: str, ident: int, count: int, interval: float, wait: float, size: int = 56) -> "list[list[float]]":
    """Send ``count``; [number, seconds since it was sent, since the first was] of each answer, as they came.

    Goes on for ``wait`` seconds after the last, or until every one has been answered and a moment more: a
    duplicate comes right behind.
    """
    answers: list[list[float]] = []
    sent: list[float] = []
    missing = set(range(count))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        link.connect((to, 0))
        until = time.monotonic() + 3600
        while (now := time.monotonic()) < until:
            if len(sent) < count and (not sent or now >= sent[-1] + interval):
                link.send(request(ident, len(sent), size))
                sent.append(now)
                if len(sent) == count:
                    until = now + wait
            pause = until - now if len(sent) == count else max(0.0, sent[-1] + interval - time.monotonic())
            while select.select([link], [], [], pause)[0]:
                packet = link.recv(2048)
                came = time.monotonic()
                header = 4 * (packet[0] & 15)
                kind, _, _, whose, number = struct.unpack("!BBHHH", packet[header : header + 8])
                if kind == 0 and whose == ident and number < len(sent):
                    answers.append([number, came - sent[number], came - sent[0]])
                    missing.discard(number)
                    if not missing:
                        until = min(until, came + 0.05)
                pause = 0.0
    return answers


def measure(asked: dict) -> dict:  # type: ignore[type-arg]  # what JSON gives, on both sides
    """Both, with the first of the addresses that answers, else the first."""
    ident = os.getpid() & 0xFFFF
    alive = (to for _ in range(2) for to in asked["to"][:3] if echoes(to, ident, 1, 0.0, asked["wait"]))
    to = next(alive, asked["to"][0])
    answers = echoes(to, ident ^ 0x4000, asked["count"], asked["interval"], asked["wait"]) if asked["count"] else []
    burst = echoes(to, ident ^ 0x8000, asked["burst"], 0.0, asked["wait"], LARGE) if asked["burst"] else []
    return {"to": to, "answers": answers, "burst": burst}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]))) + "\n")
