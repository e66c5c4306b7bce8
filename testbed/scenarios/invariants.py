"""The judge of what holds whatever is broken, and of what every lost request was lost to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from testbed.model.overtime import Invariants
from testbed.model.topology import ProxyKind
from testbed.model.verdict import Verdict, failed, passed
from testbed.scenarios.causes import Scene, losses, promises_of
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.holdings import under_way
from testbed.scenarios.judge import Terms
from testbed.scenarios.overtime import OverTime, succeeded
from testbed.scenarios.shares import described
from testbed.scenarios.ways import Ways
from testbed.traffic import Sample


class InvariantsJudge(OverTime):
    """What holds whatever is broken."""

    name = "invariants"

    def __init__(self, expected: Invariants, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def judge(self, evidence: Evidence, bit: float, ended: float) -> Verdict:
        """Wrong answers, strangers that got in, losses without a cause: none of any."""
        lost = [s for s in self.samples if not succeeded(s)]
        evidence.losses = losses(lost, self._scene(lost, evidence)) if lost else ()
        unexplained = [x for x in evidence.losses if not x.cause]
        wrong = next((s for s in self.samples if self._wrong(s, evidence)), None)
        inside = next((s for s in evidence.strangers if succeeded(s)), None)
        numbers = {
            "requests": float(len(self.samples)),
            "faults": float(len(evidence.faults)),
            "lost": float(len(lost)),
            "unexplained": float(len(unexplained)),
            "strangers": float(len(evidence.strangers)),
        }
        causes = Counter(x.cause for x in evidence.losses if x.cause)
        shown = "".join(f"; {count} x {cause}" for cause, count in causes.most_common(3))
        text = f"{len(evidence.faults)} faults, {len(lost)} of {len(self.samples)} requests lost{shown}"
        if wrong is not None:
            return failed(f"request {wrong.seq} got another's answer: {described(wrong)}\n{text}", numbers)
        if inside is not None:
            return failed(f"a stranger was answered {described(inside)} at {inside.sent:.1f} s\n{text}", numbers)
        if unexplained:
            first = unexplained[0]
            said = f"{len(unexplained)} unexplained: request {first.seq} at {first.sent:.1f} s: {first.answer}"
            return failed(f"{said}\n{text}", numbers)
        return passed(f"{text}; every answer was right, {len(evidence.strangers)} strangers stayed out", numbers)

    def _scene(self, lost: Sequence[Sample], evidence: Evidence) -> Scene:
        """What the proxies wrote down of the lost requests, and what the configuration promises of recovery."""
        lab, service = evidence.lab, self.terms.traffic.service or ""
        gateways = tuple(w for w in lab.topology.workloads if w.kind is ProxyKind.GATEWAY)
        callers = (evidence.caller,) if evidence.caller else gateways
        ids = {evidence.spec.request_id(s.seq) for s in lost}
        ids |= {s.headers["x-request-id"] for s in lost if "x-request-id" in s.headers}
        at_least = len(lost) if evidence.caller else 0  # a gateway gives ids of its own
        with ThreadPoolExecutor(8) as pool:
            trails = pool.map(
                lambda w: evidence.trail(w, ids, at_least if w is evidence.caller else 0), lab.topology.workloads
            )
        found = dict(zip((w.name for w in lab.topology.workloads), trails, strict=True))
        ways = Ways(
            lab.topology,
            callers,
            lab.of_name(service),
            evidence.spec,
            {name: entries for name, (entries, _) in found.items()},
            {name: clusters for name, (_, clusters) in found.items()},
        )
        promises = promises_of(lab.backend.applied(), service)
        most = 2 * under_way(self.samples)  # Envoy's pools connect ahead
        return Scene(evidence.faults, evidence.marks, ways, promises, most, evidence.resolution)

    def _wrong(self, sample: Sample, evidence: Evidence) -> bool:
        own = evidence.spec.request_id(sample.seq)
        called = self.terms.traffic.service
        named, request = sample.service, sample.headers.get("x-request-id", own)
        return succeeded(sample) and ((called is not None and named != called) or request != own)
