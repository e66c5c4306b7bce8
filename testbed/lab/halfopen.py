"""Connections that outlive the machine at their other end.

A machine that loses its power tells nobody.  Whoever was connected keeps a connection that is half open (RFC 9293,
section 3.5.1) and finds out when he next sends on it; Envoy answers that request with 503: it was sent, so it is
not sent again.  Envoy sets no keepalive of TCP's unless it is asked to, so a quiet one keeps it for good.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from testbed.guests.ssh import NotReachable
from testbed.lab.lab import Lab

LIMIT = 30.0
"""Seconds for one node to close its own."""

_NAMESPACES = "/run/netns"


def close_half_open(lab: Lab, lost: Collection[str]) -> int:
    """Close the connections to nodes that lost what they knew, on all others of the lab; how many there were."""
    nodes = [n.name for n in lab.inventory.nodes]
    others = [n for n in nodes if n not in lost]
    if not lost or not others:
        return 0
    addresses = [str(lab.inventory.mesh_address(n)) for n in nodes if n in lost]
    addresses += [str(w.address) for w in lab.topology.workloads if w.node in lost]
    script = _script(addresses)

    def close(node: str) -> int:
        try:
            return len(lab.connection(node).run(["sh", "-c", script], limit=LIMIT).stdout.splitlines())
        except NotReachable:  # it is off itself
            return 0

    with ThreadPoolExecutor(len(others)) as pool:
        return sum(pool.map(close, others))


def _script(addresses: Collection[str]) -> str:
    """Closes what leads to ``addresses`` in every network namespace of a node, and prints a line for each."""
    kill = shlex.join(["ss", "-HtK", "state", "connected", " or ".join(f"dst {a}" for a in addresses)])
    # a node without pods has none, and one may go meanwhile
    each = f'[ -e "$path" ] || continue; nsenter --net="$path" {kill} || [ ! -e "$path" ] || exit'
    return f"{kill} || exit\nfor path in {_NAMESPACES}/*; do {each}; done"
