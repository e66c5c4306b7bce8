"""Forms of earlier releases: recognised, so that an error can say what to write today."""

from __future__ import annotations

from collections.abc import Callable

from testbed.resources.values import Message

Advice = Callable[[str], tuple[str, str]]


def outdated_kind(group: str, kind: str) -> Advice | None:
    """What to say of a kind that Istio once had."""
    return None


def outdated_field(owner: type[Message], name: str) -> Advice | None:
    """What to say of a field that ``owner`` once had, or that earlier documents show there."""
    return None
