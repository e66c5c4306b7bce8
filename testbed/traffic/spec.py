"""What the traffic agent is told to send; ``images/shared/traffic/agent.py`` reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

KEPT_HEADERS = ("x-service", "x-version", "x-instance", "x-node", "x-request-id", "x-envoy-overloaded")


@dataclass(frozen=True)
class Request:
    """One kind of request.  ``key`` is what was varied in it."""

    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    key: str = ""


@dataclass(frozen=True)
class TrafficSpec:
    """A run of the agent: request n is ``requests[n % len(requests)]`` and has the id ``<run>-<n>``.

    With ``rate`` (requests a second) requests leave on time whatever happens, and are timed from when they
    were due; without, ``concurrency`` are kept under way.  ``timeout`` is in seconds.
    """

    run: str
    address: str
    port: int
    authority: str
    requests: tuple[Request, ...]
    count: int
    concurrency: int = 4
    rate: float | None = None
    reuse: bool = True
    protocol: Literal["http1", "http2", "grpc"] = "http1"
    timeout: float = 15.0
    keep: tuple[str, ...] = ()
    """Further headers of the answers to report."""
    body_bytes: int = 200

    def request_id(self, seq: int) -> str:
        """The value of ``x-request-id`` and ``x-testbed-request`` in request ``seq``."""
        return f"{self.run}-{seq}"

    def to_json(self) -> bytes:
        """The agent's standard input."""
        return json.dumps(
            {
                "run": self.run,
                "address": self.address,
                "port": self.port,
                "authority": self.authority,
                "count": self.count,
                "concurrency": self.concurrency,
                "rate": self.rate,
                "reuse": self.reuse,
                "protocol": self.protocol,
                "timeout": self.timeout,
                "keep": [*KEPT_HEADERS, *self.keep],
                "body_bytes": self.body_bytes,
                "variants": [
                    {"method": r.method, "path": r.path, "headers": [list(h) for h in r.headers], "body": r.body}
                    for r in self.requests
                ],
            }
        ).encode()
