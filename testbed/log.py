"""The structured log: one JSON line per event in the lab's log file, nothing on the terminal by default."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import structlog


def get(room: str) -> Any:
    """A logger whose lines name the room that they come from."""
    return structlog.get_logger(room=room)  # bound on first use: configure() may come later


def configure(file: Path | None, *, verbose: bool = False) -> None:
    """Send the log to ``file`` (appended, mode 0600), or nowhere; ``verbose`` also shows it on stderr."""
    handlers: list[logging.Handler] = []
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        handlers.append(logging.FileHandler(file))
    if verbose:
        handlers.append(logging.StreamHandler())
    root = logging.getLogger("testbed")
    root.handlers = handlers or [logging.NullHandler()]
    root.setLevel(logging.DEBUG)
    root.propagate = False
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: root,
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=False,
    )
