"""The scenario: what ``playbooks/scenarios/*.yaml`` mean.  Given, when, expect; the verdict comes later.

The JSON Schema beside the shipped scenarios is written out from these models.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from testbed.documents import parse, validate
from testbed.errors import BadInput, Problem, bad_input
from testbed.model.durations import Duration
from testbed.model.fault import Fault
from testbed.model.overtime import (
    ErrorsDuring,
    Goodput,
    Invariants,
    Isolation,
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


Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,62}[a-z0-9])?$")]
Regex = Annotated[str, AfterValidator(_regex)]
Chance = Annotated[float, Field(gt=0, lt=0.5)]
Points = Annotated[float, Field(gt=0, lt=100)]
"""Percentage points."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Setting(_Model):
    """How a workload's program behaves while the scenario runs; put back afterwards.

    For single requests there are the headers ``x-testbed-delay`` and ``x-testbed-status`` (with ``-at``).
    """

    delay: Duration = 0.0
    status: int | None = Field(None, ge=200, le=599)
    """What it answers with, always or as often as ``fail`` says."""
    fail: float | None = Field(None, gt=0, le=100)
    """Percentage of the requests that are answered with ``status`` (503 when left out)."""
    hang: bool = False
    """Takes requests and never answers."""
    abort: bool = False
    """Breaks the connection instead of answering."""


class Given(_Model):
    """What is laid on top of what the lab has; taken away when the step, or the scenario, ends."""

    resources: list[str | dict[str, Any]] = []
    """Files (relative to the scenario's own) or manifests written here."""
    remove: list[str] = []
    """Resources of the lab to take away for the while, as ``Kind namespace/name``."""
    settings: dict[Name, Setting] = {}
    """By workload, or by service for all of its workloads."""


class Vary(_Model):
    """Requests that differ: each value in turn, in a header, a cookie or the path's ``{}``."""

    header: str | None = None
    cookie: str | None = None
    values: int | list[str] = 50
    """A list, or how many to make up (``k0``, ``k1``, ...)."""


class Traffic(_Model):
    """Requests, and who sends them."""

    from_: Name = Field(alias="from")
    """A workload, a service (its first workload), or ``gateway``: from outside, through the lab's gateway."""
    service: Name | None = None
    """Whom a workload calls; through the gateway, routes decide."""
    port: int | None = Field(None, ge=1, le=65535)
    host: str | None = None
    """The authority that the request names; left out, the service's name, or any name at the gateway."""
    protocol: Literal["http1", "http2", "grpc"] = "http1"
    """``grpc`` is a unary call of the method that ``path`` names (``/package.Service/Method``) with ``body`` as its
    message; an answer's status is the HTTP status that its grpc-status stands for (google.rpc.Code)."""
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    """gRPC's is always POST."""
    path: str = Field("/", pattern=r"^/")
    headers: dict[str, str] = {}
    body: str = ""
    concurrency: int = Field(4, ge=1, le=200)
    rate: float | None = Field(None, gt=0, le=5000)
    """Requests a second whatever happens (open loop); left out, ``concurrency`` are kept under way."""
    connections: Literal["reuse", "new"] = "reuse"
    requests: int | None = Field(None, ge=1, le=200_000)
    """At most so many; left out, as many as the expectations need."""
    timeout: Duration = 15.0
    """When the caller itself gives up: longer than anything that the mesh should do."""
    vary: Vary | None = None
    mesh: bool = True
    """False sends as a stranger: plain TCP from the caller's machine, past its sidecar, without a certificate."""
    duration: Duration | None = Field(None, alias="for", gt=0)
    """How long, at ``rate``: in place of ``requests``."""
    faults: list[Fault] = []
    """What is broken meanwhile; needs ``rate`` and ``for``."""

    @model_validator(mode="after")
    def _whom(self) -> Traffic:
        if self.duration is not None and (self.rate is None or self.requests is not None):
            raise ValueError("for goes with a rate, and without requests")
        if self.faults and self.duration is None:
            raise ValueError("with faults, say how much traffic there is: rate and for")
        endless = [f.title for f in self.faults if f.duration is None and not f.kind.momentary]
        if endless:
            raise ValueError(f"say how long this fault lasts (for): {endless[0]}")
        late = [f.title for f in self.faults if f.at + (f.duration or 0) >= (self.duration or 0)]
        if late:
            raise ValueError(f"the traffic ends before this fault does: {late[0]}")
        if self.from_ != "gateway" and self.service is None and self.host is None:
            raise ValueError("a workload's traffic needs the service (or the host) that it calls")
        if self.protocol == "grpc" and "method" in self.model_fields_set and self.method != "POST":
            raise ValueError(f"gRPC sends POST, not {self.method}: leave the method out")
        return self


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
    """``namespace/name`` of the AuthorizationPolicy that did, or ``none`` when no ALLOW rule matched."""


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
    """How much later it may come; machines are slower than proxies."""
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
    moves: float = Field(0.0, ge=0, le=100)
    """At most so many percent of the values move between instances that both steps have."""


class Balance(_Model):
    """How requests spread over a service's instances."""

    policy: Literal["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"]
    service: Name | None = None
    version: str | None = None
    avoid: str | None = None
    """LEAST_REQUEST: the slow instance, which must get less than its even share."""


class Overflow(_Model):
    """Connection pool limits: some pass, the others get 503 with the flag UO at once."""

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
    """An instance that was ejected gets requests again."""

    workload: Name
    within: Duration
    """So long after its last failure."""


class Identity(_Model):
    """The peer names that both sides verified, from their access logs."""

    service: Name
    caller: str | None = None
    """SPIFFE id, or a workload or service whose identity it is; left out, the traffic's caller."""


class Encrypted(_Model):
    """On the wire between two machines there is TLS, and nothing of a marker that was sent."""

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


class Step(_Model):
    """A part of a scenario with traffic of its own."""

    name: str = ""
    given: Given = Given()
    when: Traffic
    expect: Expectation
    tell: str = ""
    """What a reader should learn from this step."""


class Mutant(_Model):
    """A mutant that changes nothing of what the scenario promises, and why."""

    mutant: str
    """The mutant's name, or a pattern with ``*``."""
    reason: str


class Scenario(_Model):
    """A promise of the mesh, and how to find out whether it keeps it."""

    name: Name
    description: str
    promise: str = Field(min_length=1, pattern=r"^[^\n]+$")
    """One sentence."""
    tags: list[Name] = []
    alpha: Chance = 0.001
    beta: Chance = 0.001
    needs: list[Name] = []
    """Services that the lab has to have; without them the scenario is not applicable."""
    features: list[str] = []
    """What the backend has to support."""
    given: Given = Given()
    when: Traffic | None = None
    expect: Expectation | None = None
    steps: list[Step] = []
    equivalent: list[Mutant] = []

    @model_validator(mode="after")
    def _one_way(self) -> Scenario:
        if bool(self.steps) == (self.when is not None) or (self.when is None) != (self.expect is None):
            raise ValueError("a scenario has either when and expect, or steps that each have both")
        return self

    @property
    def breaks_machines(self) -> bool:
        """Whether any of its steps has faults."""
        return any(step.when.faults for step in self.each_step())

    def each_step(self) -> tuple[Step, ...]:
        """Its steps; a scenario without has one."""
        if self.when is not None and self.expect is not None:
            return (Step(when=self.when, expect=self.expect),)
        return tuple(self.steps)


def read_scenario(text: str, file: str) -> Scenario:
    """Parse and check.  Raises :class:`BadInput` with every problem found, each with line and field."""
    documents = parse(text, file)
    if len(documents) != 1:
        raise bad_input(file, f"a scenario is one YAML document; this file has {len(documents)}")
    scenario = validate(Scenario, documents[0])
    doubled = {s.name for s in scenario.steps if s.name and [t.name for t in scenario.steps].count(s.name) > 1}
    if doubled:
        location = documents[0].locate(("steps",))
        raise BadInput([Problem(location, f"two steps are called {name!r}") for name in sorted(doubled)])
    return scenario


def scenario_schema() -> str:
    """The JSON Schema's text, as it stands in ``playbooks/scenarios/schema.json``."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Scenario.model_json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(scenario_schema())
