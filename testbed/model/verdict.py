"""What comes out of a scenario: one of four outcomes, why, and how sure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import fsum


class Outcome(StrEnum):
    """PASS and FAIL speak of the mesh.  INCONCLUSIVE says that the lab couldn't tell, NOT_APPLICABLE that the
    question doesn't arise; neither is ever a pass."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"

    @property
    def exit_code(self) -> int:
        """The command line's: 0, 1 for FAIL, 3 for INCONCLUSIVE."""
        return {Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}.get(self, 0)


@dataclass(frozen=True)
class Verdict:
    """An outcome with its reason (at most two lines) and its numbers.

    ``alpha`` is the chance of a FAIL when the mesh does exactly what was promised, ``beta`` the chance of a PASS
    when it misses by the tolerance or more; 0 where the judgement counts and guesses nothing.
    """

    outcome: Outcome
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.0
    beta: float = 0.0
    evidence: str = ""
    """Path of the bundle, once there is one."""
    parts: tuple[tuple[str, Verdict], ...] = ()
    """Of a verdict that was put together: what each part was called and how it came out."""

    def with_evidence(self, path: str) -> Verdict:
        """The same verdict, pointing at its bundle."""
        return replace(self, evidence=path)

    @property
    def passed(self) -> bool:
        """Whether it is a PASS (NOT_APPLICABLE is none)."""
        return self.outcome is Outcome.PASS


_Named = tuple[tuple[str, Verdict], ...]


def passed(
    reason: str, numbers: Mapping[str, float] | None = None, *, alpha: float = 0.0, beta: float = 0.0
) -> Verdict:
    """A PASS."""
    return Verdict(Outcome.PASS, reason, numbers or {}, alpha, beta)


def failed(
    reason: str, numbers: Mapping[str, float] | None = None, *, alpha: float = 0.0, beta: float = 0.0
) -> Verdict:
    """A FAIL."""
    return Verdict(Outcome.FAIL, reason, numbers or {}, alpha, beta)


def inconclusive(reason: str, numbers: Mapping[str, float] | None = None) -> Verdict:
    """An INCONCLUSIVE."""
    return Verdict(Outcome.INCONCLUSIVE, reason, numbers or {})


def not_applicable(reason: str) -> Verdict:
    """A NOT_APPLICABLE."""
    return Verdict(Outcome.NOT_APPLICABLE, reason)


def all_of(parts: Iterable[tuple[str, Verdict]]) -> Verdict:
    """FAIL if any part fails, else INCONCLUSIVE if any is, else PASS; parts that don't apply don't count.

    alpha adds up (any part may fail wrongly); beta is the largest (the part that is broken has to err).
    """
    named = tuple(parts)
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS):
        decisive = [(name, v) for name, v in named if v.outcome is outcome]
        if decisive:
            reason = decisive[0][1].reason if outcome is not Outcome.PASS else _first_reasons(decisive, named)
            return _all_together(outcome, reason, named)
    return _all_together(Outcome.NOT_APPLICABLE, _first_reason(named), named)


def any_of(parts: Iterable[tuple[str, Verdict]]) -> Verdict:
    """PASS if any part passes, else INCONCLUSIVE if any is, else FAIL.

    beta adds up (any part may pass wrongly); alpha is the largest (the part that holds has to err).
    """
    named = tuple(parts)
    for outcome in (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL):
        decisive = [(name, v) for name, v in named if v.outcome is outcome]
        if decisive:
            return _any_together(outcome, decisive[0][1].reason, named)
    return _any_together(Outcome.NOT_APPLICABLE, _first_reason(named), named)


def negated(name: str, verdict: Verdict) -> Verdict:
    """PASS and FAIL swapped, and with them alpha and beta."""
    swapped = {Outcome.PASS: Outcome.FAIL, Outcome.FAIL: Outcome.PASS}.get(verdict.outcome, verdict.outcome)
    reason = f"not: {verdict.reason}"
    return Verdict(swapped, reason, verdict.numbers, verdict.beta, verdict.alpha, parts=((name, verdict),))


def _first_reasons(decisive: list[tuple[str, Verdict]], named: _Named) -> str:
    text = "; ".join(v.reason.splitlines()[0] for _, v in decisive[:3])
    left_out = [(name, v) for name, v in named if v.outcome is Outcome.NOT_APPLICABLE]
    if left_out:
        name, verdict = left_out[0]
        text += f"\nnot judged: {name}: {verdict.reason.splitlines()[0]}"
    return text


def _first_reason(named: _Named) -> str:
    return named[0][1].reason if named else "nothing was expected"


def _all_together(outcome: Outcome, reason: str, named: _Named) -> Verdict:
    if len(named) == 1:
        return named[0][1]
    return Verdict(
        outcome, reason, {}, _sum(v.alpha for _, v in named), _most(v.beta for _, v in named), parts=named
    )


def _any_together(outcome: Outcome, reason: str, named: _Named) -> Verdict:
    if len(named) == 1:
        return named[0][1]
    return Verdict(
        outcome, reason, {}, _most(v.alpha for _, v in named), _sum(v.beta for _, v in named), parts=named
    )


def _sum(chances: Iterable[float]) -> float:
    return min(1.0, fsum(chances))


def _most(chances: Iterable[float]) -> float:
    return max(chances, default=0.0)
