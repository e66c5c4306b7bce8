"""A judge watches samples, says when it has seen enough, and then gives its verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.model.scenario import Traffic
from testbed.model.verdict import Verdict, all_of, any_of, failed, inconclusive, negated
from testbed.report.record import TestPath
from testbed.scenarios.evidence import Evidence
from testbed.traffic import Sample

PLENTY = 50
"""Requests that an expectation on every request looks at, where the traffic doesn't say how many."""
BREACHES = 8
"""So many requests that broke a rule are enough: a machine that loses a packet now and then breaks fewer."""
BROKEN = "broken"
"""The number in a verdict that says how many requests broke what was expected, where they can be counted."""

REFUSED = "connections refused"
"""The number in a FAIL that rests on refused connections alone, which a machine in trouble might explain."""
UNREACHED = ("timeout", "timed out", "No route to host", "unreachable", "error: 110", "error: 113", "error: 101")
"""Words of a proxy whose connection found nobody; the numbers are Linux's ETIMEDOUT, EHOSTUNREACH, ENETUNREACH."""


@dataclass(frozen=True)
class Terms:
    """What a judge is bound by: its share of the errors, and the traffic that it will see."""

    traffic: Traffic
    alpha: float = 0.001
    beta: float = 0.001

    @property
    def plenty(self) -> int:
        """How many requests make up "every request"."""
        return self.traffic.requests or PLENTY


class Judge(ABC):
    """One expectation."""

    name = ""
    cap = PLENTY
    """Requests after which it will say something, whatever it sees."""

    @abstractmethod
    def take(self, sample: Sample) -> None:
        """See a sample; they come in the order of sending."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether more samples would change nothing."""

    @abstractmethod
    def conclude(self, evidence: Evidence) -> Verdict:
        """The verdict, once the traffic has ended."""

    def paths(self) -> tuple[TestPath, ...]:
        """The ways of its sequential tests, for the report."""
        return ()


class EveryRequest(Judge):
    """Base of judges that hold each request against a rule, and settle once several have broken it."""

    def __init__(self, terms: Terms) -> None:
        self.cap = terms.plenty
        self.seen = 0
        self.broken: Sample | None = None
        self.breaches = 0
        self.lost: list[Sample] = []

    @abstractmethod
    def complaint(self, sample: Sample) -> str:
        """What is wrong with it; empty when nothing is."""

    def take(self, sample: Sample) -> None:
        """Count it, and keep the first that breaks the rule."""
        self.seen += 1
        complaint = self.complaint(sample)
        if not complaint:
            return
        if connection_trouble(sample):
            self.lost.append(sample)
            return
        self.breaches += 1
        if self.broken is None:
            self.broken, self.why = sample, complaint

    why = ""

    @property
    def settled(self) -> bool:
        """After some breaches, or once plenty were seen."""
        return self.breaches >= BREACHES or self.seen >= self.cap

    def conclude(self, evidence: Evidence) -> Verdict:
        """FAIL with the first breach; connections that broke are judged by how many there are."""
        numbers = {"requests": float(self.seen), "lost": float(len(self.lost))}
        if self.broken is not None:
            return failed(f"request {self.broken.seq}: {self.why}", numbers | {BROKEN: float(self.breaches)})
        if self.seen == 0:
            return inconclusive("no request was sent")
        return judge_losses(self.lost, self.seen, numbers) or self.kept(numbers)

    @abstractmethod
    def kept(self, numbers: dict[str, float]) -> Verdict:
        """The verdict when every request kept the rule."""


class Afterwards(Judge):
    """Base of judges that need all samples, and what else the lab knows, and speak at the end."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.cap = terms.plenty
        self.samples: list[Sample] = []

    def take(self, sample: Sample) -> None:
        """Keep it."""
        self.samples.append(sample)

    @property
    def settled(self) -> bool:
        """Once plenty were sent."""
        return len(self.samples) >= self.cap

    def sound(self) -> tuple[list[Sample], Verdict | None]:
        """Samples whose connection held, and a verdict when too few are left to speak of the rest."""
        lost = [s for s in self.samples if connection_trouble(s)]
        good = [s for s in self.samples if not connection_trouble(s)]
        if not self.samples:
            return [], inconclusive("no request was sent")
        return good, judge_losses(lost, len(self.samples), {"lost": float(len(lost))})


def connection_trouble(sample: Sample) -> str:
    """Why this sample may say more of the machines than of the mesh; empty when it doesn't.

    Nothing came back at all, or a proxy says that its connection to the next hop failed or broke (Envoy's local
    replies for the response flags UF and UC begin so).  A mesh that is broken throughout does this too, which is
    why the share of such samples decides (:func:`judge_losses`).
    """
    if not sample.answered:
        return sample.error
    overflow = "reset reason: overflow" in sample.body  # a limit of the mesh's own, no connection that failed
    if sample.status == 503 and sample.body.startswith("upstream connect error") and not overflow:
        return f"503 {sample.body[:160]}"
    return ""


def gave_up(sample: Sample) -> bool:
    """Whether its sender got tired of waiting for an answer."""
    return sample.error.startswith("no answer within")


def refused(sample: Sample) -> bool:
    """Whether somebody was there who would not have the proxy's connection: its port is closed, or TLS failed.

    That a packet was lost or a machine is off does not look so: then time runs out, or there is no way.
    """
    body = sample.body if connection_trouble(sample) and sample.answered else ""
    return ("connection failure" in body or "TLS" in body) and not any(word in body for word in UNREACHED)


def judge_losses(lost: Sequence[Sample], seen: int, numbers: dict[str, float]) -> Verdict | None:
    """None while at most 1% were lost; INCONCLUSIVE up to half; beyond, the mesh is broken: FAIL.

    So it is when more than 1% were refused, which machines in trouble hardly do.
    (A FAIL stands only when the machines turn out to be well: see ``blame``.)
    """
    if len(lost) * 100 <= seen:
        return None
    text = (
        f"{len(lost)} of {seen} requests found no connection; request {lost[0].seq}: {connection_trouble(lost[0])}"
    )
    if len(lost) * 2 > seen:
        return failed(text, numbers)
    refusals = [s for s in lost if refused(s)]
    if len(refusals) * 100 <= seen:
        return inconclusive(text, numbers)
    first = f"request {refusals[0].seq}: {connection_trouble(refusals[0])}"
    text = f"{len(refusals)} of {seen} requests were refused a connection; {first}"
    return failed(text, numbers | {REFUSED: float(len(refusals))})


class _Several(Judge):
    def __init__(self, parts: Sequence[Judge]) -> None:
        self.parts = parts
        self.cap = max(p.cap for p in parts)

    def take(self, sample: Sample) -> None:
        for part in self.parts:
            part.take(sample)

    @property
    def settled(self) -> bool:
        return all(p.settled for p in self.parts)

    def paths(self) -> tuple[TestPath, ...]:
        return tuple(path for part in self.parts for path in part.paths())


class All(_Several):
    """All parts hold."""

    name = "all"

    def conclude(self, evidence: Evidence) -> Verdict:
        """FAIL before INCONCLUSIVE before PASS."""
        return all_of((p.name, p.conclude(evidence)) for p in self.parts)


class Any(_Several):
    """One part holds."""

    name = "any"

    def conclude(self, evidence: Evidence) -> Verdict:
        """PASS before INCONCLUSIVE before FAIL."""
        return any_of((p.name, p.conclude(evidence)) for p in self.parts)


class Not(_Several):
    """The part does not hold."""

    name = "not"

    def __init__(self, part: Judge) -> None:
        super().__init__([part])

    def conclude(self, evidence: Evidence) -> Verdict:
        """PASS and FAIL swapped."""
        part = self.parts[0]
        return negated(part.name, part.conclude(evidence))
