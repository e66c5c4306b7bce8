"""Lengths of time as files write them: with a unit."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DURATION = re.compile(r"^(-)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?$")
_UNSIGNED = r"^(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?$"


def seconds(value: object) -> float:
    """The length in seconds; ValueError for anything but a text such as ``1h``, ``250ms`` or ``-90s``."""
    if isinstance(value, str) and value and (match := _DURATION.match(value)) and any(match.groups()[1:]):
        hours, minutes, rest, milliseconds = (float(g or 0) for g in match.groups()[1:])
        total = hours * 3600 + minutes * 60 + rest + milliseconds / 1000
        return -total if match[1] else total
    raise ValueError("expected a duration such as 250ms, 1.5s, 2m or 1h")


def _positive(value: object) -> float:
    length = seconds(value)
    if length < 0 or (isinstance(value, str) and value.startswith("-")):
        raise ValueError("expected a duration such as 250ms, 1.5s, 2m or 1h")
    return length


def written(length: float) -> str:
    """The text that :func:`seconds` reads back."""
    return f"{length:g}s" if length == round(length, 3) and "e" not in f"{length:g}" else f"{length:.3f}s"


Duration = Annotated[
    float,
    BeforeValidator(_positive),
    PlainSerializer(written, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _UNSIGNED, "examples": ["250ms", "1.5s"]}),
]
"""Seconds, written with a unit."""

SignedDuration = Annotated[
    float,
    BeforeValidator(seconds),
    PlainSerializer(written, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["1h", "-90s"]}),
]
"""Seconds, written with a unit, perhaps backwards."""
