"""The host as a place that sends: traffic from outside, through the gateway's forwarded port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

AGENT_ON_HOST = Path(__file__).parents[2] / "images" / "shared" / "traffic" / "agent.py"


@dataclass(frozen=True)
class HostConnection:
    """Runs the agent as a child of this process; the part of ``NodeConnection`` that :func:`send` needs."""

    node: str = "host"
    argv: tuple[str, ...] = (sys.executable, "-I", str(AGENT_ON_HOST))
    """Starts the agent."""

    @contextmanager
    def stream(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 600) -> Iterator[Iterator[bytes]]:
        """Lines of the command's output as they come; leaving the context ends it."""
        child = subprocess.Popen(list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None and child.stdout is not None  # noqa: S101 - pipes were asked for
        try:
            with suppress(BrokenPipeError):
                child.stdin.write(stdin)
                child.stdin.close()
            yield iter(child.stdout)
        finally:
            child.terminate()
            child.stdout.close()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
