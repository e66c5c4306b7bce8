"""Every wait has a name and a limit, and says what it last saw when the limit passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from testbed.errors import WaitTimeout

Seen = TypeVar("Seen")


class NotYet(Exception):
    """Raised by a probe while what it looks for is not there; its text is what was seen instead."""


class Cancelled(Exception):
    """The wait was called off because the command was interrupted."""


Told = Callable[[str, str], None]
"""Is told a wait's name and what its probe saw instead of what is waited for."""

_told: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Waits of this thread tell what they see, whenever that has changed, for the length of a block."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def wait_until(
    name: str,
    probe: Callable[[], Seen],
    *,
    limit: float,
    interval: float = 0.2,
    next_step: str = "",
    cancel: threading.Event | None = None,
) -> Seen:
    """Call ``probe`` until it returns instead of raising :class:`NotYet`; return what it returned.

    ``limit`` and ``interval`` are in seconds.  Raises :class:`~testbed.errors.WaitTimeout` with the text of the
    last :class:`NotYet`, and :class:`Cancelled` as soon as ``cancel`` is set.
    """
    deadline = time.monotonic() + limit
    told, before = _told.get(), None
    while True:
        try:
            return probe()
        except NotYet as e:
            seen = str(e)
        if told is not None and seen != before:
            told(name, seen)
            before = seen
        pause = min(interval, deadline - time.monotonic())
        if pause <= 0:
            raise WaitTimeout(name, limit, seen, next_step)
        if cancel is None:
            time.sleep(pause)
        elif cancel.wait(pause):
            raise Cancelled(name)
