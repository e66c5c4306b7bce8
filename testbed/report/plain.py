"""Records as plain values for JSON, and texts without secrets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from testbed.model.verdict import Verdict
from testbed.report.record import ClockRecord, FaultSpan, Loss, ScenarioRecord, StepRecord

UNEXPLAINED = "unexplained"
_SECRETS = (
    (
        re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.S),
        b"[private key removed]",
    ),
    (re.compile(rb'("private_key"\s*:\s*\{\s*"inline_(?:bytes|string)"\s*:\s*")[^"]*'), rb"\1[removed]"),
    (
        re.compile(rb"(?i)(authorization[\"']?\s*[:=,]\s*[\"']?(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]+"),
        rb"\1[removed]",
    ),
    (re.compile(rb"(?i)\b(bearer\s+)eyJ[A-Za-z0-9._-]+"), rb"\1[removed]"),
    (re.compile(rb"(?i)((?:set-)?cookie[\"']?\s*[:=,]\s*[\"']?[^\s=;,\"']+=)[^;,\s\"'}]+"), rb"\1[removed]"),
    (
        re.compile(
            rb"(?i)((?:api-?key|password|secret)(?:[\"']?\s*[:=]\s*[\"']?|[\"']\s*,\s*[\"']))[^\s,;\"'{}\[\]]+"
        ),
        rb"\1[removed]",
    ),
)


def redacted(content: bytes) -> bytes:
    """The text without private keys, tokens, passwords, API keys and cookies' values, as their names tell."""
    for pattern, instead in _SECRETS:
        content = pattern.sub(instead, content)
    return content


def masked(content: bytes) -> bytes:
    """The same with as many ``x`` in place of what is taken out: packets of a capture keep their lengths.

    A secret that is cut in two by a packet's end is not found, nor one that HTTP/2 has compressed.
    """
    for pattern, _ in _SECRETS:
        content = pattern.sub(_as_long, content)
    return content


def _as_long(found: re.Match[bytes]) -> bytes:
    shown = found[1] if found.re.groups else b""
    return shown + b"x" * (len(found[0]) - len(shown))


def verdict_plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its parts."""
    plain: dict[str, Any] = {
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "numbers": dict(verdict.numbers),
        "alpha": verdict.alpha,
        "beta": verdict.beta,
    }
    if verdict.evidence:
        plain["evidence"] = verdict.evidence
    if verdict.parts:
        plain["parts"] = [{"name": name, **verdict_plain(part)} for name, part in verdict.parts]
    return plain


def record_json(record: ScenarioRecord) -> dict[str, Any]:
    """A run in plain values: what ``testbed verify --json`` prints and ``result.json`` holds (no samples)."""
    return {
        "scenario": record.scenario.name,
        "promise": record.scenario.promise,
        "tags": list(record.scenario.tags),
        "mutant": record.mutant,
        "started": record.started.isoformat(),
        "seconds": round(record.seconds, 3),
        "lab_left_as_found": record.clean,
        "verdict": verdict_plain(record.verdict),
        "steps": [_step(step) for step in record.steps],
    }


def fault_summary(step: StepRecord) -> dict[str, Any]:
    """What a run with faults came to: faults by kind, and what was lost, by the kinds and names of the causes."""
    faults = [f.title.partition(" ")[0] for f in step.faults]
    doubts = [x.doubt for x in step.losses if x.doubt and not x.cause]
    causes = [x for x in step.losses if x.cause]
    unproved = [{"fault": f.title, "proof": f.proof} for f in step.faults if not f.held]
    return {
        "requests": len(step.samples),
        "faults": len(step.faults),
        "faults_by_kind": _counted(faults),
        "proved": sum(f.held for f in step.faults),
        "unproved": unproved,
        "not_made": list(step.put_off),
        "went_wrong": list(step.spoiled),
        "not_seen": list(step.trouble),
        "lost": len(step.losses),
        "lost_by_kind": _counted(" and ".join(x.kinds) for x in causes),
        "lost_by_cause": _counted(x.cause for x in causes),
        "lost_in_doubt": _counted(doubts),
        "unexplained": len(step.losses) - len(causes) - len(doubts),
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _step(step: StepRecord) -> dict[str, Any]:
    summary = {"under_faults": fault_summary(step)} if step.faults else {}
    return summary | {
        "name": step.name,
        "caller": step.caller,
        "revision": step.revision,
        "verdict": verdict_plain(step.verdict),
        "requests": len(step.samples),
        "sent": step.summary.sent,
        "arrived": len(step.arrivals),
        "answered_by": answered_by(step),
        "discarded": step.discarded,
        "apply_seconds": round(step.apply_seconds, 3),
        "sample_seconds": round(step.sample_seconds, 3),
        "faults": [_span(f) for f in step.faults],
        "marks": [{"time": round(m.time, 3), "what": m.words} for m in step.marks],
        "refused": step.refused,
        "clocks": [_clock(c) for c in step.clocks],
        "losses": [
            {"request": x.seq, "time": round(x.sent, 3), "answer": x.answer, "cause": cause_of(x)}
            for x in step.losses
        ],
    }


def _clock(clock: ClockRecord) -> dict[str, Any]:
    times = {"before": clock.before, "after": clock.after, "within": clock.resolution}
    return {"node": clock.node, **{name: _rounded(value) for name, value in times.items()}}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def cause_of(loss: Loss) -> str:
    """What a lost request is put down to, for people."""
    return loss.cause or (f"perhaps {loss.doubt}" if loss.doubt else UNEXPLAINED)


def _span(fault: FaultSpan) -> dict[str, Any]:
    times = {name: round(getattr(fault, name), 3) for name in ("began", "bit", "ended", "well")}
    return {"fault": fault.title, "nodes": list(fault.nodes), **times, "held": fault.held, "proof": fault.proof}


def answered_by(step: StepRecord) -> dict[str, int]:
    """Instance, or a proxy's status, or the lack of an answer -> how many requests."""
    counts: dict[str, int] = {}
    for sample in step.samples:
        proxy = f"proxy: {sample.status}" if sample.answered else "no answer"
        who = sample.headers.get("x-instance") or proxy
        counts[who] = counts.get(who, 0) + 1
    return dict(sorted(counts.items()))
