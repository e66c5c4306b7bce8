"""Expectations over time: what a scenario with faults may expect of the traffic before, during and after."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from testbed.model.durations import Duration

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,62}[a-z0-9])?$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Within(_Model):
    """A time that has a bound."""

    within: Duration


class TimeToEject(Within):
    """From the moment that a fault bites until the caller's proxy ejects an instance, by that proxy's own log."""

    workload: Name


class TimeToReadmit(Within):
    """From the moment that the fault is mended until an instance answers again."""

    workload: Name


class Rescheduled(Within):
    """From the moment that a fault bites until a workload's pod answers from another node, while it lasts."""

    workload: Name


class TimeToFailover(Within):
    """From the moment that a fault bites until requests succeed again, for good, while it lasts."""

    zone: str | None = None
    """All of them are answered from there."""


class TimeToRecover(Within):
    """From the moment that the fault is mended until requests succeed again, for good."""


class ErrorsDuring(_Model):
    """How many requests are lost, from the moment that a fault bites to the end of the traffic."""

    at_most: int = Field(alias="atMost", ge=0)
    at_least: int = Field(0, alias="atLeast", ge=0)
    """So many are lost at least: what a protection is for, or that something goes unnoticed."""


class Goodput(_Model):
    """The share of requests that succeed, in percent of those sent."""

    during: float | None = Field(None, ge=0, le=100)
    """While the faults last: at least so much."""
    after: bool = True
    """Once all is mended: as before, by an absence test of failures, and by one of medians no slower."""
    settle: Duration = 10.0
    """So long after the mending it may take."""
    slower: float = Field(3.0, gt=1)
    """Once all is mended: answers so many times slower than before would be noticed."""


class Isolation(_Model):
    """Another service, called all the while, of which the fault must not be seen: nothing lost, and no slower."""

    service: Name
    path: str = Field("/", pattern=r"^/")
    rate: float = Field(5.0, gt=0, le=200)
    slower: float = Field(2.0, gt=1)
    """Answers so many times slower than before would be noticed."""
    below: float = Field(5.0, gt=0, lt=100)
    """A share of losses, in percent, that would be noticed."""


class Invariants(_Model):
    """What must hold whatever is broken: every answer is right, losses have a cause, strangers stay out."""

    stranger: bool = True
    """Somebody without a certificate tries all the while, past the sidecars, and must not be answered."""
