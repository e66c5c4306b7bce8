"""What a run leaves behind, as values: the bundle, the page and JUnit are all made from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from testbed.model.fault import Fault
from testbed.model.scenario import Scenario
from testbed.model.verdict import Outcome, Verdict
from testbed.traffic import Sample, TrafficSpec, TrafficSummary


@dataclass(frozen=True)
class TestPath:
    """A sequential test's way between its bounds: (requests, log ratio against low, against high)."""

    __test__ = False

    arm: str
    declared: float
    low: float
    high: float
    accept_at: float
    reject_at: float
    points: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Arrival:
    """A request in a program's own log."""

    request: str
    """Its id."""
    workload: str
    number: int = 0
    """Its place in that program's log."""
    status: int = 0


@dataclass(frozen=True)
class MachineRecord:
    """How a machine was while the sample was taken."""

    node: str
    waited: float | None
    """Share of the time in which some process was ready and had no processor; None where nobody counts it."""
    sent: int
    """TCP segments sent by the workloads that took part."""
    sent_again: int
    """Of these, retransmissions."""
    needless: int = 0
    """Of these, what the other end said that it had already: late acknowledgements, nothing lost."""

    @property
    def lost(self) -> int:
        """Segments that had to be sent again."""
        return max(0, self.sent_again - self.needless)


@dataclass(frozen=True)
class FaultSpan:
    """A fault under traffic.  Times are in seconds since the run began, as samples have them."""

    title: str
    nodes: tuple[str, ...]
    began: float
    """When the command was given; it bit between then and ``bit``."""
    bit: float
    ended: float
    """When it was mended from below."""
    well: float
    """When its machines did their work again."""
    held: bool
    """Whether it proved that it took hold."""
    proof: str
    fault: Fault | None = None
    """The fault itself, by which losses are explained."""


@dataclass(frozen=True)
class Loss:
    """A request that was lost under faults.  ``sent`` is in seconds since the run began."""

    seq: int
    sent: float
    answer: str
    """What the caller got."""
    cause: str
    """The faults that explain it; empty when none does."""
    kinds: tuple[str, ...] = ()
    """The kinds of these faults, each once, in the order of the alphabet."""
    doubt: str = ""
    """Where no fault explains it: what may have, and can't be said to have: a fault that did not prove itself, a
    machine that had no processor of its host."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at one moment, in seconds since the run began: an ejection, a new revision."""

    time: float
    words: str
    workload: str = ""
    """Whom a proxy ejected, or took back."""
    kind: str = ""
    """``revision``: a proxy took up its configuration."""


@dataclass(frozen=True)
class ClockRecord:
    """How far a guest's clock was from the host's, in seconds: guest minus host; None where it did not answer."""

    node: str
    before: float | None
    after: float | None
    resolution: float


@dataclass(frozen=True)
class StepRecord:
    """One step: what was sent, what came back, what arrived, how it was judged."""

    name: str
    verdict: Verdict
    spec: TrafficSpec | None = None
    caller: str = ""
    samples: tuple[Sample, ...] = ()
    summary: TrafficSummary = field(default_factory=lambda: TrafficSummary(0))
    arrivals: tuple[Arrival, ...] = ()
    discarded: int = 0
    """Samples thrown away because a revision changed while they were taken."""
    revision: str = ""
    paths: tuple[TestPath, ...] = ()
    apply_seconds: float = 0.0
    sample_seconds: float = 0.0
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Workload -> the revision that its proxy answered with while the sample was taken."""
    machines: tuple[MachineRecord, ...] = ()
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    """File name -> content: access logs, config dumps, captures."""
    faults: tuple[FaultSpan, ...] = ()
    marks: tuple[Mark, ...] = ()
    clocks: tuple[ClockRecord, ...] = ()
    """Of every machine, where there were faults."""
    losses: tuple[Loss, ...] = ()
    """What was lost under faults, where an expectation asked for causes."""
    spoiled: tuple[str, ...] = ()
    """What went wrong with faults."""
    put_off: tuple[str, ...] = ()
    """Faults that were never made, because the traffic ended before their machines were well."""
    trouble: tuple[str, ...] = ()
    """What of the lab could not be looked at."""
    resources: str = ""
    """The manifests that were in force, as YAML."""
    refused: bool = False
    """Whether the mesh refused or never took up the resources, so that nothing was sent."""


@dataclass(frozen=True)
class ScenarioRecord:
    """A scenario's run."""

    scenario: Scenario
    verdict: Verdict
    started: datetime
    seconds: float
    steps: tuple[StepRecord, ...] = ()
    mutant: str = ""
    """The mutant that it ran under; empty for the scenario as it stands."""
    clean: bool = True
    """Whether the lab was found to be as before afterwards."""

    @property
    def outcome(self) -> Outcome:
        """The verdict's outcome."""
        return self.verdict.outcome

    def without_samples(self) -> ScenarioRecord:
        """The same without what takes room: samples, arrivals, the tests' paths, attachments."""
        steps = (replace(s, samples=(), arrivals=(), paths=(), attachments={}) for s in self.steps)
        return replace(self, steps=tuple(steps))
