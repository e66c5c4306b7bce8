"""What the lab's proxies hold, before faults and after them: what is never let go of again is lasting damage."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

from testbed.backends.answers import body_of
from testbed.backends.looking import exchange
from testbed.errors import LabError
from testbed.scenarios.lab import LabUnderTest
from testbed.traffic import Sample

SPARE = 4
"""Connections of a pool that are nobody's damage, whatever was under way."""
GROWTH, ROOM = 1.5, 16 * 1024**2
"""A proxy's memory may become so many times what it was, and so many bytes more: its allocator keeps some back."""
_STATS = "/stats?usedonly&filter=" + quote(r"upstream_cx_active$|^listener\..*downstream_cx_active$")


@dataclass(frozen=True)
class Holding:
    """One proxy's connections by the name of Envoy's gauge, and the bytes that it has allocated."""

    connections: Mapping[str, int]
    memory: int


def holdings(lab: LabUnderTest) -> dict[str, Holding]:
    """Every Envoy's, by workload; one round trip to each node.  Raises LabError for one that does not answer."""
    on_node = lab.by_node(w for w in lab.topology.workloads if w.has_envoy)
    with ThreadPoolExecutor(max(1, len(on_node))) as pool:
        found = list(pool.map(lambda names: _of_node(lab, names), on_node.values()))
    return {name: holding for node in found for name, holding in node.items()}


def _of_node(lab: LabUnderTest, names: list[str]) -> dict[str, Holding]:
    asked = [
        exchange(lab.guest, name, lab.guest.admin_port, path) for name in names for path in (_STATS, "/memory")
    ]
    script = "; ".join(f"{shlex.join(argv)}; printf '\\0'" for argv in asked)
    said = lab.backend.connection(names[0]).run(["bash", "-c", script]).stdout
    answers = [body_of(answer) for answer in said.split(b"\0")[:-1]]
    try:
        pairs = zip(names, answers[::2], answers[1::2], strict=True)
        return {name: _holding(stats.decode(), memory) for name, stats, memory in pairs}
    except (ValueError, KeyError):
        raise LabError(
            names[0], "ask what its proxy holds", f"it said {said[:200]!r}", "see: testbed status"
        ) from None


def _holding(stats: str, memory: bytes) -> Holding:
    pairs = (line.rpartition(": ") for line in stats.splitlines())
    return Holding({k: int(v) for k, _, v in pairs if v.isdigit()}, int(json.loads(memory)["allocated"]))


def under_way(samples: Iterable[Sample]) -> int:
    """How many requests were under way at once, at most."""
    found = list(samples)
    events = sorted([(s.sent, 1) for s in found] + [(s.sent + s.took, -1) for s in found])
    now = most = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def damage(before: Mapping[str, Holding], after: Mapping[str, Holding], most: int) -> str:
    """What is held on to; empty when nothing is.

    ``most`` requests were under way at once.  A pool has a connection for each of them, and may have made another
    for each that found one free in the end (Envoy's HTTP/1 pool connects ahead); whatever else is there leaked.
    """
    for name, now in after.items():
        then = before[name]
        for gauge, count in now.connections.items():
            had = then.connections.get(gauge, 0)
            if count > had + 2 * most + SPARE:
                return f"{name} has {count} connections ({gauge}), {had} before, with {most} requests at once"
        if now.memory > GROWTH * then.memory + ROOM:
            return f"{name} holds {now.memory >> 20} MiB of memory, {then.memory >> 20} before"
    return ""
