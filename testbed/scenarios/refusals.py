"""Judges of what must not get through: denied, and where; overflow."""

from __future__ import annotations

from testbed.model.expectation import Denied, Overflow
from testbed.model.topology import MeshWorkload
from testbed.model.verdict import Verdict, failed, inconclusive, passed
from testbed.scenarios.evidence import Evidence
from testbed.scenarios.judge import BROKEN, Afterwards, Terms, connection_trouble
from testbed.scenarios.shares import described
from testbed.traffic import Sample

MARKS = {"tls": "filter_chain_not_found", "egress": "BlackHoleCluster"}
"""What a proxy's access log says of a connection that is no TLS where there has to be (Envoy's
%RESPONSE_CODE_DETAILS%), and of one that may not leave the mesh (Istio's name for a cluster without endpoints)."""
CUT = ("the connection was closed before the answer", "Connection reset by peer", "Broken pipe")


class DeniedJudge(Afterwards):
    """Every request is refused as stated.  Where, is read from the access log of the proxy that did it."""

    name = "denied"

    def __init__(self, expected: Denied, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """By RBAC: 403; by JWT: 401; by TLS or at the egress: cut before anything is answered."""
        if not self.samples:
            return inconclusive("no request was sent")
        numbers = {"requests": float(len(self.samples))}
        if self.expected.by in ("tls", "egress"):
            return self._cut(evidence, numbers)
        status, words = (403, "RBAC: access denied") if self.expected.by == "rbac" else (401, "Jwt")
        good, lost = self.sound()
        for sample in good:
            if sample.status != status or words not in sample.body:
                text = f"request {sample.seq} was answered {described(sample)}, not {status} {words!r}"
                return failed(text, numbers)
        return lost or self._place(good, evidence, numbers)

    def _cut(self, evidence: Evidence, numbers: dict[str, float]) -> Verdict:
        """By TLS, or because the mesh lets nothing out.  A proxy that does let it out waits for an answer."""
        through = next((s for s in self.samples if s.answered), None)
        if through is not None:
            return failed(f"request {through.seq} was answered {described(through)}", numbers)
        other = next((s for s in self.samples if s.error not in CUT), None)
        if other is not None:
            text = f"request {other.seq} failed, but not by a refusal: {other.error}"
            return failed(text, numbers) if self.expected.by == "egress" else inconclusive(text, numbers)
        text = f"all {len(self.samples)} connections were cut without an answer"
        if self.expected.by == "egress":
            return self._egress(text, evidence, numbers)
        if self.expected.at is None:
            return passed(text, numbers)
        return self._by_proxies(text, self.expected.at, evidence.lab.of_name(self.expected.at), evidence, numbers)

    def _egress(self, text: str, evidence: Evidence, numbers: dict[str, float]) -> Verdict:
        """It is the caller's own proxy that keeps a connection from leaving the mesh."""
        caller, at = evidence.caller, self.expected.at
        if caller is None:
            return inconclusive("traffic from outside does not leave the mesh")
        if at is not None and caller not in evidence.lab.of_name(at):
            return failed(f"{text}; egress is refused at {caller.name}, not at {at}", numbers)
        return self._by_proxies(text, caller.name, (caller,), evidence, numbers)

    def _by_proxies(
        self,
        text: str,
        where: str,
        workloads: tuple[MeshWorkload, ...],
        evidence: Evidence,
        numbers: dict[str, float],
    ) -> Verdict:
        """Whether these proxies wrote down that it was they who cut the connections, and why."""
        mark = MARKS[self.expected.by]
        entries = evidence.connections(workloads, mark, len(self.samples))
        found = sum(e.holds(mark) for e in entries)
        numbers = numbers | {"entries": float(found)}
        if found >= len(self.samples):
            return passed(f"{text}, at {where} ({mark})", numbers)
        told = f"{text}; {found} of them are in the access log of {where} as {mark}"
        # something else cut them, or let them in first; without any entry the log is behind, or it does not tell
        return failed(told, numbers) if entries and not found else inconclusive(told, numbers)

    def _place(self, good: list[Sample], evidence: Evidence, numbers: dict[str, float]) -> Verdict:
        where = self.expected.at
        text = f"all {len(self.samples)} requests were denied by {self.expected.by.upper()}"
        if where is None:
            return passed(text, numbers)
        workloads = evidence.lab.of_name(where)
        entries = [e for w in workloads for e in evidence.access_log(w)]
        mark = "rbac_access_denied" if self.expected.by == "rbac" else "jwt_authn_access_denied"
        denials = [e for e in entries if mark in e["response_code_details"]]
        if len(denials) < len(good):
            # it has been denied, but not there: unless the log is behind, that is the wrong place
            told = f"{len(denials)} of {len(good)} denials are in the access log of {where}"
            return failed(told, numbers) if not denials and entries else inconclusive(told, numbers)
        if self.expected.policy:
            wanted = self.expected.policy.replace("/", "]-policy[")
            wanted = "matched_policy[none]" if wanted == "none" else f"matched_policy[ns[{wanted}]"
            other = next((e for e in denials if wanted not in e["response_code_details"]), None)
            if other is not None:
                details = other["response_code_details"]
                return failed(f"denied by {details}, not by policy {self.expected.policy}", numbers)
            text += f", policy {self.expected.policy}"
        return passed(f"{text}, at {where}", numbers)


AT_ONCE = 1.0
"""Seconds.  A request that is refused at once is answered by then, on an emulated machine as well, or else before
the quickest of those that got through: it has waited for none of them."""


class OverflowJudge(Afterwards):
    """A burst meets a connection pool's limits."""

    name = "overflow"

    def __init__(self, expected: Overflow, terms: Terms) -> None:
        super().__init__(terms)
        self.expected = expected

    def conclude(self, evidence: Evidence) -> Verdict:
        """Counts, exactly: answered by a program, or refused at once with the marks of response flag UO."""
        passes = [s for s in self.samples if s.service and s.status < 500]
        refused = [s for s in self.samples if is_overflow(s)]
        lost = [s for s in self.samples if connection_trouble(s)]
        known = {s.seq for s in (*passes, *refused, *lost)}
        others = [s for s in self.samples if s.seq not in known]
        numbers = {"passed": float(len(passes)), "refused": float(len(refused)), "lost": float(len(lost))}
        text = f"of {len(self.samples)} requests {len(passes)} passed and {len(refused)} were refused with UO"
        if others:
            first = f"request {others[0].seq} was answered {described(others[0])}"
            return failed(f"{text}; {first}, which is neither", numbers | {BROKEN: float(len(others))})
        if lost:
            return inconclusive(f"{text}; {len(lost)} found no connection: {connection_trouble(lost[0])}", numbers)
        if not 1 <= len(passes) <= self.expected.most:
            return failed(f"{text}; declared: 1 to {self.expected.most} pass", numbers)
        if len(refused) < self.expected.refused:
            return failed(f"{text}; declared: at least {self.expected.refused} are refused", numbers)
        quickest = min(s.took for s in passes)
        if late := [s for s in refused if s.took > max(AT_ONCE, quickest)]:
            waited = f"request {late[0].seq} was refused after {late[0].took:.2f} s, not at once"
            return failed(f"{text}; {waited}", numbers | {BROKEN: float(len(late))})
        return passed(text, numbers)


def is_overflow(sample: Sample) -> bool:
    """Whether a proxy refused it because a circuit breaker's limit was reached."""
    return sample.status == 503 and ("x-envoy-overloaded" in sample.headers or "overflow" in sample.body)
