"""Judges of who answers how often: split, never, at least once."""

from __future__ import annotations

from collections.abc import Callable

from testbed.model.expectation import AtLeastOnce, Never, Split
from testbed.model.topology import Topology
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.report.record import TestPath
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import Judge, Terms, connection_trouble, judge_losses
from testbed.statistics import AbsenceTest, Decision, PresenceTest, SplitTest
from testbed.traffic import Sample

Arm = Callable[[Sample], str]


def arm_of(by: str, topology: Topology, header: str | None = None) -> Arm:
    """How to read from an answer which arm it came from; "" when a program didn't answer."""
    if by == "zone":
        zones = {w.name: w.locality.zone for w in topology.workloads}
        # of a pod that is away the zone is its node's, where the lab tells that of a node
        nodes = {w.node: w.locality.zone for w in topology.workloads}
        return lambda sample: (
            nodes.get(sample.headers.get("x-node", "")) or zones.get(sample.headers.get("x-instance", ""), "")
        )
    name = (header or f"x-{by}").lower()
    return lambda sample: sample.headers.get(name, "")


def described(sample: Sample) -> str:
    """An answer that has no arm, in words."""
    return f"{sample.status} {sample.body[:80].strip()!r}" if sample.body else str(sample.status)


class SplitJudge(Judge):
    """Sequential, arm by arm.  A connection that failed says nothing of weights and is set aside; an answer that
    the mesh gave in a program's place (no healthy upstream, no route, denied) is nobody's share: a stray."""

    name = "split"

    def __init__(self, expected: Split, terms: Terms, topology: Topology) -> None:
        self.expected = expected
        self.arm = arm_of(expected.by, topology, expected.header)
        self.beta = terms.beta
        self.test = SplitTest(
            expected.weights,
            tolerance=expected.tolerance / 100 if expected.tolerance else None,
            alpha=terms.alpha,
            beta=terms.beta,
        )
        self.alpha = terms.alpha if self.test.tests else 0.0  # an arm that gets all or nothing is counted
        self.cap = self.test.cap
        self.seen = 0
        self.lost: list[Sample] = []
        self.first_stray = ""

    def take(self, sample: Sample) -> None:
        """Count it for its arm, unless its connection failed."""
        if self.settled:
            return
        self.seen += 1
        if connection_trouble(sample):
            self.lost.append(sample)
            return
        arm = self.arm(sample)
        if self.expected.service and sample.service and sample.service != self.expected.service:
            arm = f"{sample.service} {arm}".strip()
        arm = arm or described(sample)
        if self.test.shares.get(arm, 0.0) == 0.0 and not self.first_stray:
            self.first_stray = f"request {sample.seq} was answered by {arm}"
        self.test.observe(arm)

    @property
    def settled(self) -> bool:
        """When the test has decided, or most connections fail."""
        return self.test.decision is not Decision.OPEN or (len(self.lost) >= 25 and len(self.lost) * 2 > self.seen)

    def conclude(self, evidence: Evidence) -> Verdict:
        """The test's decision, with every arm's share."""
        rows = self.test.report()
        numbers = {"requests": float(self.test.total), "lost": float(len(self.lost))}
        numbers |= {f"share of {row.arm}": round(row.seen, 4) for row in rows}
        if lost := judge_losses(self.lost, self.seen, numbers):
            return lost
        seen = ", ".join(f"{row.arm} {row.seen:.1%} ({row.hits})" for row in rows)
        wanted = ", ".join(f"{row.arm} {row.declared:.1%}" for row in rows if row.arm in self.test.shares)
        text = f"of {self.test.total} requests: {seen}; declared: {wanted}"
        if self.test.decision is Decision.ACCEPT:
            return passed(text, numbers, alpha=self.alpha, beta=self.beta)
        if self.test.decision is Decision.REJECT:
            why = self.first_stray or "a share is off by the tolerance or more"
            return failed(f"{text}\n{why}", numbers, alpha=self.alpha, beta=self.beta)
        return inconclusive(f"{text}\nno decision after {self.test.total} requests", numbers)

    def paths(self) -> tuple[TestPath, ...]:
        """One per arm that has a test of its own."""
        return tuple(
            TestPath(arm, t.zone.share, t.zone.low, t.zone.high, t.accept_at, t.reject_at, tuple(t.path))
            for arm, t in self.test.tests.items()
        )


class NeverJudge(Judge):
    """An arm that must get nothing."""

    name = "never"

    def __init__(self, expected: Never, terms: Terms, topology: Topology) -> None:
        self.expected = expected
        self.arm = arm_of(expected.by, topology)
        self.test = AbsenceTest(expected.below / 100, terms.beta)
        self.cap = self.test.needed
        self.lost: list[Sample] = []
        self.broken = -1

    def take(self, sample: Sample) -> None:
        """Any hit decides."""
        if connection_trouble(sample):
            self.lost.append(sample)
            return
        hit = self.arm(sample) == self.expected.arm
        if hit and self.broken < 0:
            self.broken = sample.seq
        self.test.observe(hit)

    @property
    def settled(self) -> bool:
        """At the first hit, or when the share asked about would have shown."""
        return self.test.decision is not Decision.OPEN

    def conclude(self, evidence: Evidence) -> Verdict:
        """FAIL names the request."""
        numbers = {"requests": float(self.test.total), "hits": float(self.test.hits)}
        if self.test.decision is Decision.REJECT:
            return failed(f"request {self.broken} reached {self.expected.arm}", numbers)
        if lost := judge_losses(self.lost, self.test.total + len(self.lost), numbers):
            return lost
        if self.test.decision is Decision.ACCEPT:
            text = f"none of {self.test.total} requests reached {self.expected.arm}"
            return passed(text, numbers, beta=self.test.beta)
        return inconclusive(f"{self.test.total} requests are too few to show that none goes there", numbers)


class AtLeastOnceJudge(Judge):
    """An arm that must be seen."""

    name = "atLeastOnce"

    def __init__(self, expected: AtLeastOnce, terms: Terms, topology: Topology) -> None:
        self.expected = expected
        self.arm = arm_of(expected.by, topology)
        self.test = PresenceTest(expected.above / 100, terms.alpha)
        self.cap = self.test.needed
        self.lost: list[Sample] = []

    def take(self, sample: Sample) -> None:
        """The first hit decides."""
        if connection_trouble(sample):
            self.lost.append(sample)
        else:
            self.test.observe(self.arm(sample) == self.expected.arm)

    @property
    def settled(self) -> bool:
        """At the first hit, or when the arm would have shown."""
        return self.test.decision is not Decision.OPEN

    def conclude(self, evidence: Evidence) -> Verdict:
        """PASS at the first hit."""
        numbers = {"requests": float(self.test.total), "hits": float(self.test.hits)}
        if self.test.decision is Decision.ACCEPT:
            return passed(f"{self.expected.arm} was reached within {self.test.total} requests", numbers)
        if lost := judge_losses(self.lost, self.test.total + len(self.lost), numbers):
            return lost
        if self.test.decision is Decision.REJECT:
            text = f"none of {self.test.total} requests reached {self.expected.arm}"
            return failed(text, numbers, alpha=self.test.alpha)
        return inconclusive(f"{self.test.total} requests are too few", numbers)
