"""The thaw of one node, in one round trip: see ``images/shared/node/testbed_thaw.py`` for what it does there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from time import time as now

from testbed.guests import NodeConnection

_TOOL = (
    "python3",
    "-ISE",
    "-X",
    "pycache_prefix=/run/testbed-pycache",
    "-c",
    "import sys; sys.path.insert(0, '/opt/testbed/node'); import testbed_thaw; testbed_thaw.run()",
)
_ENTROPY = 64  # bytes: the kernel's generator is keyed with 32
THAW_LIMIT = 60.0
"""Seconds for a node to thaw."""


@dataclass(frozen=True)
class Thawed:
    """What a thaw did."""

    clock: float
    """By how many seconds the node's clock was put forward."""
    seeded: int
    """Proxies whose random numbers were seeded anew while they stood still."""
    restarted: int
    """Proxies that were restarted instead."""
    closed: int
    """Connections from before the save."""


def thaw(connection: NodeConnection) -> Thawed:
    """Clock, random numbers and connections of a node that was just restored; then its services go on."""
    document = {"time": now(), "entropy": os.urandom(_ENTROPY).hex()}
    done = connection.run(_TOOL, stdin=json.dumps(document).encode(), limit=THAW_LIMIT)
    return Thawed(**json.loads(done.stdout))
