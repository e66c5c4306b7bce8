"""The thaw of one node, in one round trip: see ``images/shared/node/testbed_thaw.py`` for what it does there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import time as now
from typing import Any

from testbed.errors import LabError
from testbed.guests.ssh import SshConnection

PORT = 15099
"""Where the program that waited in a node's image answers, on the node's loopback."""
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
    seconds: float
    """What it took on the node, whose time this is."""


def thaw(connection: SshConnection) -> Thawed:
    """Clock, random numbers and connections of a node that was just restored; then its services go on."""
    done = ask(connection, {"do": "thaw", "entropy": os.urandom(_ENTROPY).hex()}, THAW_LIMIT)
    return Thawed(**done)


def ask(connection: SshConnection, document: Mapping[str, Any], limit: float) -> Any:
    """Ask the program that waited in the node's image; ``limit`` in seconds.  Raises LabError when it failed."""

    def request(own_port: int) -> bytes:
        return json.dumps({**document, "time": now(), "keep": own_port}).encode()

    said = json.loads(connection.ask(PORT, request, limit))
    if isinstance(said, dict) and "failed" in said:
        raise LabError(connection.node, str(document["do"]), said["failed"], "run: testbed up --cold")
    return said
