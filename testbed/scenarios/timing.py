"""Judges of time: timeouts and latency quantiles."""

from __future__ import annotations

from statistics import median

from testbed.model.expectation import Latency, Timeout
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import BROKEN, Afterwards, Terms, gave_up
from testbed.scenarios.shares import described
from testbed.statistics import quantile_interval
from testbed.traffic import Sample

EARLY = 0.02
"""Share of the stated time by which an answer may come early: clocks of two machines, and rounding."""


class TimeoutJudge(Afterwards):
    """The proxy gives up when it must.  None may come early, and each must come in the window.

    Few that are late by less than a further window say nothing for sure, for machines stumble; any later one, or
    half of them, is the proxy's doing unless the machines are known to have been in trouble (see ``blame``).
    """

    name = "timeout"

    def __init__(self, expected: Timeout, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """Status, time, and whether the backend had got the request at all."""
        want = self.expected
        good, lost = self.sound()
        numbers = {"requests": float(len(self.samples))}
        if other := [s for s in good if s.status != want.status]:
            text = f"request {other[0].seq} was answered {described(other[0])}, not {want.status}"
            return failed(text, numbers | {BROKEN: float(len(other))})
        if early := [s for s in good if s.took < want.after * (1 - EARLY)]:
            text = f"request {early[0].seq} was given up after {early[0].took:.2f} s, before {want.after:g} s"
            return failed(text, numbers | {BROKEN: float(len(early))})
        if late := self._late(good, numbers) or lost:
            return late
        middle = median(s.took for s in good)
        numbers |= {"median seconds": round(middle, 3)}
        if want.reached:
            arrived = evidence.arrivals_at(want.reached)
            missed = [s for s in good if evidence.spec.request_id(s.seq) not in arrived]
            if missed:
                text = f"request {missed[0].seq} never reached {want.reached}"
                return failed(text, numbers | {BROKEN: float(len(missed))})
        return passed(f"all {len(good)} requests were given up after {middle:.2f} s (median)", numbers)

    def _late(self, good: list[Sample], numbers: dict[str, float]) -> Verdict | None:
        """What came after the window; the caller's own patience may have ended before the proxy's."""
        until = self.expected.after + self.expected.within
        late = [s for s in (*good, *filter(gave_up, self.samples)) if s.took > until]
        worst = max(late, key=lambda s: s.took, default=None)
        if worst is None:
            return None
        text = f"{len(late)} of {len(self.samples)} requests were not given up within {until:g} s; "
        text += f"request {worst.seq}: {worst.error or 'given up'} after {worst.took:.2f} s"
        if 2 * len(late) <= len(self.samples) and worst.took <= until + self.expected.within:
            return inconclusive(text, numbers)
        return failed(text, numbers | {BROKEN: float(len(late))})


class LatencyJudge(Afterwards):
    """A quantile, with what the sample allows to say of it."""

    name = "latency"

    def __init__(self, expected: Latency, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """PASS and FAIL need the whole interval on one side; else the sample can't tell."""
        want = self.expected
        good, lost = self.sound()
        if lost or not good:
            return lost or inconclusive("no answer came")
        bounds = sum(bound is not None for bound in (want.below, want.above))  # either may fail wrongly
        confidence = 1 - 2 * min(self.terms.alpha / bounds, self.terms.beta)
        interval = quantile_interval([s.took for s in good], want.quantile, confidence)
        shown = " to ".join("?" if bound is None else f"{bound:.3f} s" for bound in (interval.low, interval.high))
        text = f"the {want.quantile:g} quantile of {len(good)} answers is {interval.estimate:.3f} s ({shown})"
        numbers = {"requests": float(len(good)), "estimate": interval.estimate}
        low, high = interval.low, interval.high
        errors = {"alpha": self.terms.alpha, "beta": self.terms.beta}
        if (want.below is not None and low is not None and low > want.below) or (
            want.above is not None and high is not None and high < want.above
        ):
            return failed(f"{text}; declared: {self._declared()}", numbers, **errors)
        if (want.below is None or (high is not None and high <= want.below)) and (
            want.above is None or (low is not None and low >= want.above)
        ):
            return passed(f"{text}; declared: {self._declared()}", numbers, **errors)
        return inconclusive(f"{text}; declared: {self._declared()}; the sample can't tell", numbers)

    def _declared(self) -> str:
        bounds = (("below", self.expected.below), ("above", self.expected.above))
        return " and ".join(f"{word} {value:g} s" for word, value in bounds if value is not None)
