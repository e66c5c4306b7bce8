"""Judges of outlier detection: an instance that fails is left alone, and taken back later."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.model.expectation import Ejected, Readmitted
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import PLENTY, Afterwards, Terms
from testbed.traffic import Sample

UNDER_WAY = 2
"""Further failures that callers may see: Envoy's main thread ejects, its worker learns of it a moment later."""


class EjectedJudge(Afterwards):
    """An instance that fails gets nothing more."""

    name = "ejected"

    def __init__(self, expected: Ejected, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected
        self.cap = terms.traffic.requests or 2 * PLENTY

    def conclude(self, evidence: Evidence) -> Verdict:
        """Counts its failures, and that none follow; requests that were under way meanwhile are allowed for."""
        name = self.expected.workload
        good = [s for s in self.samples if s.answered]
        theirs = [n for n, s in enumerate(good) if s.headers.get("x-instance") == name]
        failures = [n for n in theirs if good[n].status >= 500]
        numbers = {"requests": float(len(good)), "failures": float(len(failures))}
        most = self.expected.after + self.terms.traffic.concurrency - 1 + UNDER_WAY
        if not failures:
            return inconclusive(f"{name} never failed: nothing to eject it for", numbers)
        after = len(good) - 1 - theirs[-1]
        text = f"{name} failed {len(failures)} times, then {after} requests went elsewhere"
        if len(failures) > most:
            return failed(f"{text}; declared: ejected after {self.expected.after}", numbers)
        if after < PLENTY // 2:
            return inconclusive(f"{text}; too few to show that it gets nothing", numbers)
        return passed(text, numbers)


OUT = PLENTY // 2
"""So many answers of others in a row show that an instance gets nothing."""
BLIND = 1.0
"""Seconds without any request, between two steps, from which on nobody knows what came to pass in them."""


class ReadmittedJudge(Afterwards):
    """An ejected instance comes back: it has been out, and is asked again neither too early nor too late.

    Times are the sender's, from the last answer with which the instance failed before it was first left alone, in
    this step or in an earlier one of the same sender; one that is asked again and still fails is back.  Where none
    was seen they are from the step's start, when the instance was out already.
    """

    name = "readmitted"

    def __init__(self, expected: Readmitted, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected
        self.cap = terms.traffic.requests or 2 * PLENTY
        self._others = 0
        self._back = False

    def take(self, sample: Sample) -> None:
        """Keep it, and look whether this is the return."""
        super().take(sample)
        if not sample.answered:
            return
        theirs = sample.headers.get("x-instance") == self.expected.workload
        self._back = self._back or (theirs and sample.status < 500 and self._others >= OUT)
        self._others = 0 if theirs else self._others + 1

    @property
    def settled(self) -> bool:
        """Once it is back after an absence, or plenty were sent."""
        return self._back or super().settled

    def conclude(self, evidence: Evidence) -> Verdict:
        """Out first, then in."""
        name, want = self.expected.workload, self.expected
        moments = sorted(self._moments(evidence), key=lambda m: m[0])
        failures = _before_it_was_out(moments, name)
        since = max(failures, default=0.0)
        after = [(at - since, s) for at, s in moments if at >= since and (failures or at >= 0)]
        back = next((n for n, (_, s) in enumerate(after) if _from(s, name)), None)
        others = after[:back]
        start = "its last failure" if failures else "the start"
        watched = max((at for at, _ in after), default=0.0)
        if back is None and watched < want.within:
            return inconclusive(f"{name} was not seen, but only {watched:.1f} of {want.within:g} s were watched")
        if len(others) < OUT:
            return inconclusive(f"{name} was never out: only {len(others)} requests in a row went elsewhere")
        if back is None:
            return failed(
                f"{name} was not back in {watched:.1f} s from {start}; declared: within {want.within:g} s"
            )
        return self._timed(others[-1][0], after[back][0], start)

    def _moments(self, evidence: Evidence) -> Iterator[tuple[float, Sample]]:
        """Answers with the times of their sending, from this step's start."""
        yield from ((s.sent, s) for s in self.samples if s.answered)
        for past in evidence.earlier:
            if past.sender == evidence.sender and evidence.began is not None and past.began <= evidence.began:
                shift = past.began - evidence.began
                yield from ((s.sent + shift, s) for s in past.samples if s.answered)

    def _timed(self, out: float, back: float, start: str) -> Verdict:
        """``out`` is when it was last passed over, ``back`` when it was asked again, in seconds from ``start``."""
        earliest, latest = self.expected.not_before or 0.0, self.expected.within
        declared = f"within {latest:g} s" if not earliest else f"after {earliest:g} to {latest:g} s"
        text = f"{self.expected.workload} was back {back:.1f} s after {start}; declared: {declared}"
        numbers = {"seconds": round(back, 3)}
        if back - out > BLIND and (out < earliest <= back or out <= latest < back):
            return inconclusive(f"{text}; nobody asked for {back - out:.1f} s before that", numbers)
        if back < earliest and start == "the start":
            return inconclusive(f"{text}; how long it was out by then nobody saw", numbers)
        return passed(text, numbers) if earliest <= back <= latest else failed(text, numbers)


def _before_it_was_out(moments: list[tuple[float, Sample]], name: str) -> list[float]:
    """When the instance failed, until an absence that others' answers show; all its failures if there is none."""
    failures: list[float] = []
    others = 0
    for at, sample in moments:
        if not _from(sample, name):
            others += 1
            continue
        if failures and others >= OUT:
            break
        others = 0
        if sample.status >= 500:
            failures.append(at + sample.took)
    return failures


def _from(sample: Sample, instance: str) -> bool:
    return sample.headers.get("x-instance") == instance
