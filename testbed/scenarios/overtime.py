"""Judges of time: how long after a fault the mesh noticed, helped itself and was well; and what it cost.

All times are on the sender's clock, of which the host's is known to within ``evidence.resolution``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from testbed.model.overtime import (
    ErrorsDuring,
    Goodput,
    Isolation,
    Rescheduled,
    TimeToEject,
    TimeToFailover,
    TimeToReadmit,
    TimeToRecover,
)
from testbed.model.topology import Topology
from testbed.model.verdict import Outcome, Verdict, failed, inconclusive, not_applicable, passed
from testbed.report.plain import cause_of
from testbed.report.record import FaultSpan, Mark
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.explaining import explained
from testbed.scenarios.judge import Afterwards, Terms
from testbed.scenarios.shares import arm_of, described
from testbed.statistics import AbsenceTest, Decision, slowdown
from testbed.traffic import Sample

LEFT_AFTERWARDS = 5.0
"""A share of failures, in percent, that would have been noticed once all was mended."""


SLOWER = "times slower"
"""The number of a verdict on how slow answers became."""


def succeeded(sample: Sample) -> bool:
    """Whether the caller got what it asked for; 5xx and silence are failures."""
    return sample.answered and sample.status < 500


def unsound_before(samples: Iterable[Sample], began: float) -> str:
    """Why the traffic before the first fault says nothing of what the fault does; empty when all was well."""
    before = [s for s in samples if s.sent + s.took < began]
    lost = sum(not succeeded(s) for s in before)
    if lost:
        return f"{lost} of {len(before)} requests failed before any fault"
    return "" if before else "no request ended before the fault"


class OverTime(Afterwards):
    """Base: looks at all of the traffic, whose length says when it is over."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.cap = terms.traffic.requests or 1

    @property
    def settled(self) -> bool:
        """Never: the traffic's length says when it is over."""
        return False


class AfterFaults(OverTime):
    """Base: nothing is said of a fault that did not prove itself, or of traffic that was not sound before it."""

    def conclude(self, evidence: Evidence) -> Verdict:
        """The subclass's verdict, once there is something to judge."""
        spans = evidence.faults
        if not spans:
            return inconclusive("no fault was made")
        loose = next((s for s in spans if not s.held), None)
        if loose is not None:
            return inconclusive(f"the fault {loose.title} did not prove that it took hold: {loose.proof}")
        if evidence.unsettled:
            return failed(f"lasting damage: {evidence.unsettled}")
        began, bit = min(s.began for s in spans), min(s.bit for s in spans)
        ended = max(s.ended for s in spans)
        if why := unsound_before(self.samples, began):
            return inconclusive(why)
        return self.judge(evidence, bit, ended)

    @abstractmethod
    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """Between the first bite and the last mending."""

    def resolution(self, evidence: Evidence, spans: Sequence[FaultSpan]) -> float:
        """Of a measured time: the clocks, how long the fault took to bite, and the traffic's interval."""
        bite = max(s.bit - s.began for s in spans)
        return evidence.resolution + bite + 1 / (self.terms.traffic.rate or 1)

    def bounded(self, what: str, seconds: float, within: float, evidence: Evidence) -> Verdict:
        """PASS within the bound, as far as could be measured."""
        resolution = self.resolution(evidence, evidence.faults)
        numbers = {"seconds": round(seconds, 3), "resolution": round(resolution, 3)}
        text = f"{what} after {seconds:.2f} s (± {resolution:.2f} s); declared: within {within:g} s"
        return passed(text, numbers) if seconds <= within else failed(text, numbers)

    def healed(self, since: float, until: float) -> float | None:
        """When the first request was sent after which all in the window succeed; None when there is none."""
        window = sorted((s for s in self.samples if since <= s.sent < until), key=lambda s: s.sent)
        good: float | None = None
        for sample in window:
            if not succeeded(sample):
                good = None
            elif good is None:
                good = sample.sent
        return good


def _ejects(mark: Mark) -> bool:
    return "eject" in mark.words and "uneject" not in mark.words


class TimeToEjectJudge(AfterFaults):
    """The caller's proxy ejects the instance."""

    name = "timeToEject"

    def __init__(self, expected: TimeToEject, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """From the proxy's own log of ejections; NOT_APPLICABLE where proxies keep none."""
        if reason := evidence.lab.backend.not_applicable("ejections"):
            return not_applicable(reason)
        name = self.expected.workload
        early = next((m for m in evidence.marks if _ejects(m) and m.time < bit - evidence.resolution), None)
        if early is not None:
            return inconclusive(f"before the fault, at {early.time:.1f} s, {early.words}: the mesh was not well")
        marks = [m for m in evidence.marks if m.workload == name and m.time >= bit - evidence.resolution]
        ejected = next(filter(_ejects, marks), None)
        if ejected is None:
            others = "".join(f"; {m.words} at {m.time:.1f} s" for m in evidence.marks if _ejects(m))
            text = f"{name} was never ejected in {ended - bit:.1f} s; declared: {self.expected.within:g} s{others}"
            return failed(text)
        return self.bounded(f"{name} was ejected", max(0.0, ejected.time - bit), self.expected.within, evidence)


class TimeToReadmitJudge(AfterFaults):
    """An instance answers again."""

    name = "timeToReadmit"

    def __init__(self, expected: TimeToReadmit, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """From its first answer after the mending."""
        name, within = self.expected.workload, self.expected.within
        late = (s for s in self.samples if s.sent >= ended and succeeded(s))
        back = next((s for s in sorted(late, key=lambda s: s.sent) if s.headers.get("x-instance") == name), None)
        if back is not None:
            return self.bounded(f"{name} answered again", back.sent - ended, within, evidence)
        watched = max((s.sent for s in self.samples), default=0.0) - ended
        text = f"{name} did not answer in the {watched:.1f} s after the fault; declared: within {within:g} s"
        return failed(text) if watched >= within else inconclusive(text)


class RescheduledJudge(AfterFaults):
    """A pod that lost its node answers from another one."""

    name = "rescheduled"

    def __init__(self, expected: Rescheduled, terms: Terms, topology: Topology) -> None:
        super().__init__(terms)
        self.expected = expected
        self.home = next((w.node for w in topology.workloads if w.name == expected.workload), "")

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """From its first answer from elsewhere that came while the fault lasted: programs name the pod's node."""
        name, within = self.expected.workload, self.expected.within
        answers = [s for s in self.samples if succeeded(s) and s.headers.get("x-instance") == name]
        elsewhere = [s for s in answers if s.headers.get("x-node", self.home) != self.home]
        if early := next((s for s in elsewhere if s.sent < bit), None):
            return inconclusive(f"before the fault {name} was on {early.headers['x-node']}, not on {self.home}")
        meanwhile = [s for s in elsewhere if s.sent + s.took < ended]
        if meanwhile:
            first = min(meanwhile, key=lambda s: s.sent)
            text = f"{name} answered from {first.headers['x-node']}"
            return self.bounded(text, first.sent - bit, within, evidence)
        text = (
            f"{name} answered from no other node in {ended - bit:.1f} s of the fault; declared: within {within:g} s"
        )
        return failed(text) if ended - bit >= within else inconclusive(text)


class TimeToFailoverJudge(AfterFaults):
    """Callers are served while the fault lasts."""

    name = "timeToFailover"

    def __init__(self, expected: TimeToFailover, terms: Terms, topology: Topology) -> None:
        super().__init__(terms)
        self.expected = expected
        self.arm = arm_of("zone", topology)

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """From the first request of the unbroken row of successes that reaches to the fault's end."""
        good = self.healed(bit, ended)
        if good is None:
            return failed(f"requests went on failing until the fault was mended, {ended - bit:.1f} s")
        if self.expected.zone:
            answers = [s for s in self.samples if good <= s.sent and s.sent + s.took < ended]
            astray = next((s for s in answers if self.arm(s) != self.expected.zone), None)
            if astray is not None:
                return failed(f"request {astray.seq} was answered from {self.arm(astray) or described(astray)}")
        return self.bounded("requests succeeded", good - bit, self.expected.within, evidence)


class TimeToRecoverJudge(AfterFaults):
    """Callers are served once the fault is mended."""

    name = "timeToRecover"

    def __init__(self, expected: TimeToRecover, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """From the first request of the unbroken row of successes that reaches to the end of the traffic."""
        good = self.healed(ended, float("inf"))
        if good is None:
            return failed("requests went on failing after the fault was mended")
        return self.bounded("requests succeeded again", good - ended, self.expected.within, evidence)


class ErrorsDuringJudge(AfterFaults):
    """The losses, counted."""

    name = "errorsDuring"

    def __init__(self, expected: ErrorsDuring, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """Every failure with its cause, which decides nothing here: the number does."""
        lost = [s for s in self.samples if not succeeded(s)]
        if not evidence.losses:
            service = self.terms.traffic.service or ""
            evidence.losses = explained(lost, self.samples, service, evidence, [])
        causes = Counter(f"{cause_of(x)}: {x.answer[:60]}" for x in evidence.losses)
        shown = "".join(f"; {count} x {cause}" for cause, count in causes.most_common(3))
        most, least = self.expected.at_most, self.expected.at_least
        numbers = {"lost": float(len(lost)), "requests": float(len(self.samples))}
        declared = f"{least} to {most}" if least else f"at most {most}"
        text = f"{len(lost)} of {len(self.samples)} requests were lost{shown}; declared: {declared}"
        return passed(text, numbers) if least <= len(lost) <= most else failed(text, numbers)


def pace(before: Sequence[Sample], later: Sequence[Sample], factor: float, terms: Terms) -> Verdict:
    """Whether answers are not ``factor`` times slower than before: FAIL is wrong with a chance of alpha at most,
    PASS with one of beta."""
    early, late = ([s.took for s in samples if succeeded(s)] for samples in (before, later))
    if not early or not late:
        return inconclusive(f"{len(early)} answers before and {len(late)} later tell nothing of how slow they are")
    found = slowdown(early, late, factor)
    numbers = {SLOWER: round(found.ratio, 2)}
    text = f"the median is {found.ratio:.2f} x that of before"
    if found.if_not <= terms.alpha:
        return failed(f"{text}; declared: less than {factor:g} x", numbers, alpha=terms.alpha)
    if found.if_slower <= terms.beta:
        return passed(text, numbers, beta=terms.beta)
    return inconclusive(f"{text}: {len(early)} answers before and {len(late)} later are too few to tell", numbers)


class GoodputJudge(AfterFaults):
    """The share of requests that succeed, before, during and after."""

    name = "goodput"

    def __init__(self, expected: Goodput, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """During: counted.  After: as before, when all succeeded: no failure among so many that a lasting one of 5%
        would have shown, and not slower."""
        during = [s for s in self.samples if bit <= s.sent < ended]
        after = [s for s in self.samples if s.sent >= ended + self.expected.settle]
        share = 100 * sum(map(succeeded, during)) / len(during) if during else 100.0
        test = AbsenceTest(LEFT_AFTERWARDS / 100, self.terms.beta)
        for sample in after:
            test.observe(not succeeded(sample))
        failures = sum(not succeeded(s) for s in after)
        numbers = {"during": round(share, 2), "after": float(len(after)), "failures after": float(failures)}
        text = f"{share:.1f}% succeeded during the fault, {len(after) - failures} of {len(after)} after it"
        if self.expected.during is not None and share < self.expected.during:
            return failed(f"{text}; declared: {self.expected.during:g}% during", numbers)
        if not self.expected.after:
            return passed(text, numbers)
        if test.decision is Decision.REJECT:
            return failed(f"{text}; before, all did", numbers, beta=self.terms.beta)
        if test.decision is not Decision.ACCEPT:
            return inconclusive(f"{text}: {test.needed} are needed to tell", numbers)
        before = [s for s in self.samples if s.sent + s.took < evidence.faults[0].began]
        paced = pace(before, after, self.expected.slower, self.terms)
        return replace(
            paced, reason=f"{text}; before, all did; {paced.reason}", numbers=numbers | dict(paced.numbers)
        )


class IsolationJudge(AfterFaults):
    """A service that is not concerned."""

    name = "isolation"

    def __init__(self, expected: Isolation, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """From the bite on nothing is lost among so many that a share of ``below`` would have shown; and while the
        fault lasts, answers are not slower than before."""
        name, expected = self.expected.service, self.expected
        before = [s for s in evidence.bystanders if s.sent + s.took < bit]
        during = [s for s in evidence.bystanders if bit <= s.sent < ended]
        others = [s for s in evidence.bystanders if s.sent + s.took >= bit]
        test = AbsenceTest(expected.below / 100, self.terms.beta)
        for sample in others:
            test.observe(not succeeded(sample))
        numbers = {"requests": float(len(others)), "lost": float(test.hits)}
        text = f"{test.hits} of {len(others)} requests to {name} were lost"
        if why := unsound_before(evidence.bystanders, bit):
            return inconclusive(f"{name}: {why}", numbers)
        if test.decision is Decision.REJECT:
            return failed(text, numbers)
        paced = pace(before, during, expected.slower, self.terms)
        numbers |= paced.numbers
        if paced.outcome is Outcome.PASS and test.decision is not Decision.ACCEPT:
            return inconclusive(f"{text}: {test.needed} are needed to tell", numbers)
        return replace(paced, reason=f"{text}, during {paced.reason}", numbers=numbers)
