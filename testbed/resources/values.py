"""What the fields of Istio's kinds are made of: durations, matches, selectors, references.

Every model here and beside it is a message of Istio's API (release 1.30) under its own name: a field is
written in Python as in the protobuf (``per_try_timeout``) and in YAML as in its JSON form (``perTryTimeout``).
A plain scalar that is left out has its zero, as in proto3; a message or wrapped scalar left out is ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict, model_validator


def json_name(name: str) -> str:
    """The JSON form of a protobuf field name: ``consecutive_5xx_errors`` becomes ``consecutive5xxErrors``."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


class Message(BaseModel):
    """Base of every message: frozen, and a field that Istio does not have is an error, not dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=json_name, validate_by_name=True)


class OneOf(Message):
    """A message with fields of which at most one may be set (protobuf's ``oneof``)."""

    oneofs: ClassVar[tuple[tuple[str, ...], ...]] = ()

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        for names in self.oneofs:
            given = [json_name(name) for name in names if name in self.model_fields_set]
            if len(given) > 1:
                raise ValueError(f"only one of {', '.join(given)} may be set")
        return self

    def which(self) -> str:
        """The name of the first oneof's field that is set, or nothing."""
        return next((name for name in self.oneofs[0] if name in self.model_fields_set), "")


_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|h|m|s)"
_DURATION = re.compile(rf"^[+-]?({_PART})+$")
_PARTS = re.compile(_PART)
_MAX_SECONDS = 315_576_000_000.0  # google.protobuf.Duration: about 10,000 years


def seconds(value: object) -> float:
    """A Go duration (``1.5s``, ``100ms``, ``1h30m``), in seconds; :class:`ValueError` if it is none."""
    if isinstance(value, float):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a duration with its unit, such as 5s or 250ms")
    if value == "0":
        return 0.0
    if len(value) > 64 or not _DURATION.match(value):
        raise ValueError("expected a duration with its unit, such as 5s or 250ms")
    total = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PARTS.findall(value))
    if total > _MAX_SECONDS:
        raise ValueError("a duration of more than 10,000 years")
    return round(-total if value[0] == "-" else total, 9)


def duration_text(value: float) -> str:
    """Seconds as Istio writes a duration: ``0.25`` becomes ``0.25s``."""
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def _of_a_millisecond(value: object) -> float:
    if (found := seconds(value)) < 0.001 or round(found * 1e9) % 1_000_000:
        raise ValueError("a duration must be 1ms or more, in whole milliseconds")
    return found


AnyDuration = Annotated[float, BeforeValidator(seconds), PlainSerializer(duration_text, return_type=str)]
"""Seconds; in YAML a Go duration.  0s has a meaning."""

Duration = Annotated[float, BeforeValidator(_of_a_millisecond), PlainSerializer(duration_text, return_type=str)]
"""Seconds, 0.001 or more; in YAML a Go duration."""

# YAML's "80" is no number and 1 is no boolean: the API server refuses both by the published schema
Bool = Annotated[bool, Strict()]
Int32 = Annotated[int, Strict(), Field(ge=-(2**31), lt=2**31)]
UInt32 = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
UInt64 = Annotated[int, Strict(), Field(ge=0, lt=2**64)]
Count = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
OptionalPort = Annotated[int, Strict(), Field(ge=0, le=65535)]
"""A port; 0 is none, as in proto3."""
PortNumber = Annotated[int, Strict(), Field(ge=1, le=65535)]
WholePercent = Annotated[int, Strict(), Field(ge=0, le=100)]
Double = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Labels = dict[str, str]


class StringMatch(OneOf):
    """How a string is compared: exactly, by its beginning, or by an RE2 expression that must match all of it."""

    oneofs = (("exact", "prefix", "regex"),)
    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class PortSelector(Message):
    """A port by its number."""

    number: PortNumber


class Percent(Message):
    """A share of a hundred, 0 to 100."""

    value: Annotated[Double, Field(ge=0, le=100)] = 0.0


class WorkloadSelector(Message):
    """Workloads by labels, as the networking kinds write it (``workloadSelector.labels``)."""

    labels: Labels = {}


class LabelSelector(Message):
    """Workloads by labels, as the security kinds and DestinationRule write it (``selector.matchLabels``)."""

    match_labels: Labels = {}


class PolicyTargetReference(Message):
    """The Gateway, GatewayClass, Service or ServiceEntry that a policy is attached to."""

    group: str = ""
    kind: str
    name: str


class Destination(Message):
    """Where traffic goes: a host of the registry, one of its subsets, one of its ports."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether ``labels`` carry all of ``selector``; an empty selector selects everything."""
    return all(labels.get(key) == value for key, value in selector.items())


def to_plain(message: Message) -> dict[str, Any]:
    """The message as YAML would hold it: JSON names, and only the fields that were set."""
    return message.model_dump(mode="json", by_alias=True, exclude_unset=True)
