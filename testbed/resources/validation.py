"""Istio's own rules for its kinds, beyond types (its package ``config/validation``, release 1.30)."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.documents import Path
from testbed.resources.values import Message

Finding = tuple[Path, str, str]


def check(spec: Message) -> Iterator[Finding]:
    """What Istio's webhook would refuse: path below ``spec``, what is wrong, what to write."""
    yield from ()
