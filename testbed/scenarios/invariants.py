"""The judge of what holds whatever is broken, and of what every lost request was lost to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from testbed.model.overtime import Invariants
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.scenarios.causes import NO_PROCESSOR
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.explaining import explained
from testbed.scenarios.judge import Terms
from testbed.scenarios.overtime import OverTime, succeeded, unsound_before
from testbed.scenarios.shares import described
from testbed.traffic import Sample

UNPROVED = 0.1
"""Share of the faults that may have been left out, gone wrong or not proved themselves: more, and it was not the
schedule that was tried."""
DOUBTFUL = 0.001
"""Share of the requests that may have been lost while a machine on their way had no processor: more, and a mesh
that loses as many could pass for a host that is too small."""
HUNGRY = 0.1
"""Share of the time in which some machine may have had no processor, where a request was lost to that: a mesh that
loses requests at random loses nine of ten at other times, where they are unexplained."""
LEAST_TRIES = 5
"""So many times each instance has to have turned a stranger away: one that can't be reached lets nobody in."""


def got_in(sample: Sample) -> bool:
    """Whether a stranger was let in: answered by more than a refusal or a proxy that has nobody to ask."""
    return succeeded(sample) and sample.status not in (401, 403)


def turned_away(sample: Sample) -> bool:
    """Whether a stranger was refused, by somebody who was there to do it: with a status, or by ending the
    connection.  Silence, no route and a port where nobody listens say nothing."""
    if sample.answered:
        return sample.status in (401, 403)
    return "closed" in sample.error or "reset by peer" in sample.error


class InvariantsJudge(OverTime):
    """What holds whatever is broken."""

    name = "invariants"

    def __init__(self, expected: Invariants, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected
        self.planned = len(terms.traffic.faults)

    def conclude(self, evidence: Evidence) -> Verdict:
        """Wrong answers, strangers that got in, losses without a cause, lasting damage: none of any.

        A fault that did not prove itself explains no loss.  It does not spoil the run either, as long as no loss
        hangs on it and most of the schedule took hold.
        """
        spans = evidence.faults
        if not spans:
            return inconclusive("; ".join(["no fault was made", *evidence.spoiled[:1], *evidence.trouble[:1]]))
        lost = [s for s in self.samples if not succeeded(s)]
        evidence.losses = explained(
            lost, self.samples, self.terms.traffic.service or "", evidence, evidence.trouble
        )
        numbers = self._numbers(evidence)
        causes = Counter(" and ".join(x.kinds) for x in evidence.losses if x.cause)
        shown = "".join(f"; {count} x {cause}" for cause, count in causes.most_common(3))
        text = (
            f"{numbers['proved']:.0f} of {numbers['planned']:.0f} faults took hold, "
            f"{len(lost)} of {len(self.samples)} requests lost{shown}"
        )
        if (wrong := next(self._wrongs(evidence), "")) or (wrong := self._unexplained(evidence)):
            return failed(f"{wrong}\n{text}", numbers)
        if doubt := next(self._doubts(evidence, numbers), ""):
            return inconclusive(f"{doubt}\n{text}", numbers)
        return passed(f"{text}; every answer was right, {numbers['strangers']:.0f} strangers stayed out", numbers)

    def _numbers(self, evidence: Evidence) -> dict[str, float]:
        return {
            "requests": float(len(self.samples)),
            "planned": float(max(self.planned, len(evidence.faults))),
            "faults": float(len(evidence.faults)),
            "proved": float(sum(s.held for s in evidence.faults)),
            "lost": float(len(evidence.losses)),
            "unexplained": float(sum(not x.cause and not x.doubt for x in evidence.losses)),
            "in doubt": float(sum(bool(x.doubt) for x in evidence.losses)),
            "strangers": float(sum(len(tries) for tries in evidence.strangers.values())),
            "without a processor": round(evidence.processors.hungry(self.terms.traffic.timeout), 4),
        }

    def _wrongs(self, evidence: Evidence) -> Iterator[str]:
        """What must not be, whatever else was seen or not."""
        wrong = next((s for s in self.samples if self._wrong(s, evidence)), None)
        if wrong is not None:
            yield f"request {wrong.seq} got another's answer: {described(wrong)}"
        for instance, tries in evidence.strangers.items():
            inside = next((s for s in tries if got_in(s)), None)
            if inside is not None:
                yield f"{instance} answered a stranger {described(inside)} at {inside.sent:.1f} s"
        if evidence.unsettled:
            yield f"lasting damage: {evidence.unsettled}"

    def _unexplained(self, evidence: Evidence) -> str:
        """The losses without a cause, where all was seen that could have given them one."""
        found = [x for x in evidence.losses if not x.cause and not x.doubt]
        if not found or evidence.trouble or unsound_before(self.samples, min(s.began for s in evidence.faults)):
            return ""
        first = found[0]
        return f"{len(found)} unexplained: request {first.seq} at {first.sent:.1f} s: {first.answer}"

    def _doubts(self, evidence: Evidence, numbers: dict[str, float]) -> Iterator[str]:
        """Why it can't be said that all held."""
        if evidence.trouble:
            yield f"the lab, not the mesh: {evidence.trouble[0]}"
        if why := unsound_before(self.samples, min(s.began for s in evidence.faults)):
            yield why
        unproved = int(numbers["planned"] - numbers["proved"])
        if unproved > UNPROVED * numbers["planned"]:
            yield f"{unproved} faults did not take hold: {self._first_unproved(evidence)}"
        starved = [x for x in evidence.losses if x.doubt.startswith(NO_PROCESSOR)]
        hanging = [x for x in evidence.losses if x.doubt and x not in starved]
        if hanging:
            yield f"{len(hanging)} losses hang on faults that did not prove themselves: {hanging[0].doubt}"
        hungry = numbers["without a processor"]
        if starved and (len(starved) > DOUBTFUL * len(self.samples) or hungry > HUNGRY):
            yield (
                f"{len(starved)} requests hung while a machine waited for a processor of the host, as some did "
                f"{hungry:.0%} of the time: {starved[0].doubt} when request {starved[0].seq} was sent"
            )
        yield from self._too_few(evidence)

    def _first_unproved(self, evidence: Evidence) -> str:
        loose = [f"{s.title}: {s.proof}" for s in evidence.faults if not s.held]
        return next(iter([*loose, *evidence.spoiled, *evidence.put_off]), "no word of them")

    def _too_few(self, evidence: Evidence) -> Iterator[str]:
        if not self.expected.stranger:
            return
        if not evidence.strangers:
            yield "no stranger tried to get in"
        for instance, tries in evidence.strangers.items():
            away = sum(map(turned_away, tries))
            if away < LEAST_TRIES:
                yield f"{instance} turned a stranger away {away} times of {len(tries)}: {LEAST_TRIES} say something"

    def _wrong(self, sample: Sample, evidence: Evidence) -> bool:
        own = evidence.spec.request_id(sample.seq)
        called = self.terms.traffic.service
        named, request = sample.service, sample.headers.get("x-request-id", own)
        return succeeded(sample) and ((called is not None and named != called) or request != own)
