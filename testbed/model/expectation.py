"""What a scenario expects: one kind of expectation a class, and how they are put together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from testbed.model.durations import Duration
from testbed.model.overtime import (
    ErrorsDuring,
    Goodput,
    Invariants,
    Isolation,
    Name,
    Rescheduled,
    TimeToEject,
    TimeToFailover,
    TimeToReadmit,
    TimeToRecover,
)


def _list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as e:
        raise ValueError(f"not a regular expression: {e}") from None
    return value


Regex = Annotated[str, AfterValidator(_regex)]
Points = Annotated[float, Field(gt=0, lt=100)]
"""Percentage points."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Split(_Model):
    """Each arm gets its share of the requests, and nobody else anything."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    by: Literal["version", "instance", "zone", "header"] = "version"
    header: str | None = None
    """For ``by: header``: the answer's header that names the arm."""
    service: Name | None = None
    """Answers of any other service are strays."""
    tolerance: Points | None = None
    """What is too far off, in percentage points; 5 when left out, tighter near 0% and 100%."""

    @model_validator(mode="after")
    def _sane(self) -> Split:
        if sum(self.weights.values()) <= 0:
            raise ValueError("the weights add up to 0")
        if (self.by == "header") != (self.header is not None):
            raise ValueError("by: header and the header's name go together")
        return self


class Never(_Model):
    """An arm gets nothing."""

    arm: str
    by: Literal["version", "instance", "zone", "service"] = "version"
    below: Points = 1.0
    """A share of so many percent would have been noticed."""


class AtLeastOnce(_Model):
    """An arm gets something."""

    arm: str
    by: Literal["version", "instance", "zone", "service"] = "version"
    above: Points = 1.0


class Text(_Model):
    """What an answer's body or header must hold; all that is given must match."""

    equals: str | None = None
    contains: str | None = None
    lacks: str | None = None
    matches: Regex | None = None

    @model_validator(mode="after")
    def _something(self) -> Text:
        if not self.model_fields_set:
            raise ValueError("say what to look for: equals, contains, lacks or matches")
        return self


class Header(Text):
    """A header of the answer."""

    name: str


class Denied(_Model):
    """Every request is refused, in the stated way and place."""

    by: Literal["rbac", "tls", "jwt", "egress"] = "rbac"
    at: Name | None = None
    """The service or workload whose proxy refused."""
    policy: str | None = None
    """``namespace/name`` of the AuthorizationPolicy that did, or ``none`` when no ALLOW rule matched; with rbac."""

    @model_validator(mode="after")
    def _told(self) -> Denied:
        if self.policy is not None and (self.by != "rbac" or self.at is None):
            raise ValueError("policy goes with by: rbac and with at, the proxy whose log tells the policy")
        return self


class Average(_Model):
    """Arrivals for each request that was sent, on average: what retries add to the load."""

    at_least: float = Field(0.0, ge=0, alias="atLeast")
    at_most: float = Field(ge=0, alias="atMost")


class Attempts(_Model):
    """How often each request arrives at a service: exact, from the programs' own logs."""

    service: Name
    version: str | None = None
    each: int | None = Field(None, ge=0)
    at_least: int | None = Field(None, ge=0, alias="atLeast")
    at_most: int | None = Field(None, ge=0, alias="atMost")
    average: Average | None = None

    @model_validator(mode="after")
    def _something(self) -> Attempts:
        if self.each is None and self.at_least is None and self.at_most is None and self.average is None:
            raise ValueError("say how often: each, atLeast, atMost or average")
        return self


class Timeout(_Model):
    """A proxy gives up on a backend that hangs: 504 after the stated time, and the backend was reached."""

    after: Duration
    within: Duration = 0.5
    """How much later each may come; machines are slower than proxies."""
    status: int = 504
    reached: Name | None = None
    """The service that must have got the request."""


class Latency(_Model):
    """A quantile of the answers' times, by a confidence interval from order statistics."""

    quantile: float = Field(0.5, gt=0, lt=1)
    below: Duration | None = None
    above: Duration | None = None

    @model_validator(mode="after")
    def _something(self) -> Latency:
        if self.below is None and self.above is None:
            raise ValueError("say what the quantile is compared with: below or above")
        return self


class Sticky(_Model):
    """Each value that the traffic varies always reaches the same instance, and more than one is used."""

    instances: int = Field(2, ge=1)
    """So many different ones are seen at least."""
    since: str | None = None
    """An earlier step with the same values: whose values' instances are compared."""
    gone: Annotated[list[Name], BeforeValidator(_list)] = []
    """With ``since``: the instances that have left meanwhile, whose values find new ones."""
    moves: float = Field(0.0, ge=0, le=100)
    """At most so many percent of the values of all other instances move."""

    @model_validator(mode="after")
    def _compared(self) -> Sticky:
        if self.gone and self.since is None:
            raise ValueError("gone goes with since: say which step had them")
        return self


class Balance(_Model):
    """How requests spread over a service's instances."""

    policy: Literal["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"]
    service: Name | None = None
    version: str | None = None
    avoid: str | None = None
    """LEAST_REQUEST: the slow instance.  Its even share is too much, three quarters of that or less are right."""


class Overflow(_Model):
    """Connection pool limits: some pass, the others get 503 with the flag UO at once, and nobody anything else."""

    most: int = Field(ge=1)
    """At most so many are let through, and at least one."""
    refused: int = Field(1, ge=1)
    """At least so many are refused."""


class Ejected(_Model):
    """Outlier detection: after a while of failing, an instance gets nothing more."""

    workload: Name
    after: int = Field(ge=1)
    """Within so many failures that callers see."""


class Readmitted(_Model):
    """An instance that was ejected gets requests again: it has been out, and is back in time."""

    workload: Name
    within: Duration
    """So long after its last failure that the sender saw, in this step or before; without any, after the start."""
    not_before: Duration | None = Field(None, alias="notBefore")
    """And not earlier than this."""

    @model_validator(mode="after")
    def _in_order(self) -> Readmitted:
        if self.not_before is not None and self.not_before > self.within:
            raise ValueError("notBefore is later than within")
        return self


class Identity(_Model):
    """The peer names that both sides verified, from their access logs."""

    service: Name
    caller: str | None = None
    """SPIFFE id, or a workload or service whose identity it is; left out, the traffic's caller."""


class Encrypted(_Model):
    """On the wire between two machines there is TLS alone, and nothing of a marker that was sent.

    Passes only where a step before has had the control, with the same caller, service and protocol.
    """

    service: Name
    plaintext: bool = False
    """The positive control: mTLS is off, and the marker must be seen, else the capture is broken."""


class Config(_Model):
    """What a proxy has, for what traffic can't show: names of xDS resources."""

    workload: Name
    clusters: list[Regex] = []
    listeners: list[Regex] = []
    routes: list[Regex] = []
    absent: list[Regex] = []
    """No cluster, listener or route is called so."""

    @model_validator(mode="after")
    def _something(self) -> Config:
        if not (self.clusters or self.listeners or self.routes or self.absent):
            raise ValueError("say what to look for: clusters, listeners, routes or absent")
        return self


class Telemetry(_Model):
    """Fields of the access log of every request, at the caller's proxy or the callee's."""

    at: Name
    fields: dict[str, Regex] = Field(min_length=1)


class Expectation(_Model):
    """One thing to expect, or several put together: exactly one field, or ``all`` of those that are given."""

    all: list[Expectation] | None = None
    any: list[Expectation] | None = None
    not_: Expectation | None = Field(None, alias="not")
    split: Split | None = None
    never: Never | None = None
    at_least_once: AtLeastOnce | None = Field(None, alias="atLeastOnce")
    status: Annotated[list[int], BeforeValidator(_list)] | None = None
    """Every request is answered with one of these."""
    body: Text | None = None
    header: Header | None = None
    denied: Denied | None = None
    attempts: Attempts | None = None
    timeout: Timeout | None = None
    latency: Latency | None = None
    sticky: Sticky | None = None
    balance: Balance | None = None
    overflow: Overflow | None = None
    ejected: Ejected | None = None
    readmitted: Readmitted | None = None
    encrypted: Encrypted | None = None
    identity: Identity | None = None
    config: Config | None = None
    telemetry: Telemetry | None = None
    time_to_eject: TimeToEject | None = Field(None, alias="timeToEject")
    time_to_readmit: TimeToReadmit | None = Field(None, alias="timeToReadmit")
    rescheduled: Rescheduled | None = None
    time_to_failover: TimeToFailover | None = Field(None, alias="timeToFailover")
    time_to_recover: TimeToRecover | None = Field(None, alias="timeToRecover")
    errors_during: ErrorsDuring | None = Field(None, alias="errorsDuring")
    no_errors: Literal[True] | None = Field(None, alias="noErrors")
    goodput: Goodput | None = None
    isolation: Isolation | None = None
    invariants: Invariants | None = None

    @model_validator(mode="after")
    def _something(self) -> Expectation:
        if not self.parts():
            raise ValueError("nothing is expected here")
        return self

    def parts(self) -> list[tuple[str, Any]]:
        """What was given, by the name that it has in the file, in the order of the model."""
        found = []
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None:
                found.append((info.alias or name, value))
        return found

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every single expectation in it, with its name in the file."""
        yield from ((name, value) for _, name, value in self.placed())

    def placed(self, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
        """The same, each with the path that it has in the file; ``at`` is this expectation's own."""
        for name, value in self.parts():
            here = (*at, name)
            if name in ("all", "any"):
                for number, part in enumerate(value):
                    yield from part.placed((*here, number))
            elif name == "not":
                yield from value.placed(here)
            else:
                yield here, name, value
