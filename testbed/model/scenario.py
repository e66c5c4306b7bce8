"""The scenario: what ``playbooks/scenarios/*.yaml`` mean.  Given, when, expect; the verdict comes later.

The JSON Schema beside the shipped scenarios is written out from these models.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from testbed.documents import Document, parse, validate
from testbed.errors import BadInput, Problem, bad_input
from testbed.model.durations import Duration
from testbed.model.expectation import Expectation
from testbed.model.fault import Fault
from testbed.model.overtime import Name

Chance = Annotated[float, Field(gt=0, lt=0.5)]


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


class Step(_Model):
    """A part of a scenario with traffic of its own."""

    name: str = ""
    given: Given = Given()
    when: Traffic
    expect: Expectation
    tell: str = ""
    """What a reader should learn from this step."""

    @model_validator(mode="after")
    def _countable(self) -> Step:
        _check_countable(self.when, self.expect)
        return self


def _check_countable(when: Traffic, expect: Expectation) -> None:
    """Programs that were broken have forgotten what arrived."""
    for name, value in expect.leaves():
        field = {"attempts": "attempts", "timeout": "timeout.reached"}.get(name)
        if when.faults and field and (name == "attempts" or value.reached is not None):
            raise ValueError(f"{field} can't be told under faults: programs that are broken forget what arrived")


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
    """Of a FAIL though all that is promised holds exactly, all steps together."""
    beta: Chance = 0.001
    """Of a PASS though something is off by its tolerance or more."""
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
        if self.when is not None and self.expect is not None:
            _check_countable(self.when, self.expect)
        return self

    @model_validator(mode="after")
    def _looks_back(self) -> Scenario:
        sticky: set[str] = set()
        for step in self.steps:
            found = [value for name, value in step.expect.leaves() if name == "sticky"]
            for since in (value.since for value in found if value.since is not None):
                if since not in sticky:
                    raise ValueError(
                        f"sticky.since: no step before {step.name!r} that is called {since!r} has sticky"
                    )
            sticky |= {step.name} if found else set()
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
    return scenario_of(scenario_document(text, file))


def scenario_document(text: str, file: str) -> Document:
    """The one document of a scenario file, with the places of its fields.  Raises :class:`BadInput`."""
    documents = parse(text, file)
    if len(documents) != 1:
        raise bad_input(file, f"a scenario is one YAML document; this file has {len(documents)}")
    return documents[0]


def scenario_of(document: Document) -> Scenario:
    """What the document says.  Raises :class:`BadInput` with every problem found."""
    scenario = validate(Scenario, document)
    doubled = {s.name for s in scenario.steps if s.name and [t.name for t in scenario.steps].count(s.name) > 1}
    if doubled:
        location = document.locate(("steps",))
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
