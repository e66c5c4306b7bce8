"""What became of a scenario's mutants, as values: which it noticed, and its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.model.scenario import Scenario
from testbed.model.verdict import Outcome
from testbed.report.plain import record_json
from testbed.report.record import ScenarioRecord


@dataclass(frozen=True)
class MutantResult:
    """What became of a mutant."""

    name: str
    record: ScenarioRecord | None = None
    excused: str = ""
    """Why it changes nothing of the promise; it was not run."""
    refused: str = ""
    """Why the mesh never took it: no request was sent under it, so nothing is known of the scenario."""

    @property
    def counts(self) -> bool:
        """Whether the score is about it."""
        return not (self.excused or self.refused)

    @property
    def killed(self) -> bool:
        """Whether the scenario noticed, by traffic: only a FAIL counts, INCONCLUSIVE has survived."""
        return self.counts and self.record is not None and self.record.outcome is Outcome.FAIL

    @property
    def said(self) -> str:
        """What became of it, in one word or two."""
        if self.excused:
            return "changes nothing"
        if self.refused:
            return "refused by the mesh"
        return "noticed" if self.killed else "not noticed"

    @property
    def reason(self) -> str:
        """Why that is said."""
        return self.excused or self.refused or (self.record.verdict.reason if self.record else "")


@dataclass(frozen=True)
class MutationScore:
    """All mutants of a scenario."""

    scenario: Scenario
    results: tuple[MutantResult, ...] = ()
    baseline: ScenarioRecord | None = None
    """The scenario with nothing broken, run first; None where there was no mutant to run."""
    unsound: str = ""
    """Why there is no score, whatever the results: the scenario did not pass with nothing broken, or can't."""
    left_behind: bool = False
    """Whether the lab could not be put back, so that nothing that comes after means anything."""

    @property
    def killed(self) -> int:
        """How many were noticed."""
        return sum(r.killed for r in self.results)

    @property
    def counted(self) -> int:
        """How many change something and were taken up by the mesh."""
        return sum(r.counts for r in self.results)

    @property
    def percent(self) -> float | None:
        """The share noticed; None where nothing was tried, or a scenario that does not pass unbroken tried it."""
        return 100.0 * self.killed / self.counted if self.counted and not self.unsound else None

    @property
    def said(self) -> str:
        """The score in words."""
        if self.unsound:
            return f"no score: {self.unsound.splitlines()[0]}"
        if self.percent is None:
            tried = "the mesh refused every mutant" if any(r.refused for r in self.results) else ""
            return f"no score: {tried or 'nothing in this lab could be broken for it'}"
        return f"noticed {self.killed} of {self.counted} ({self.percent:.0f}%)"

    @property
    def exit_code(self) -> int:
        """The command line's: 1 for a mutant that was not noticed or a FAIL with nothing broken, 3 where nothing
        could be told, else 0."""
        if self.unsound:
            return self.baseline.outcome.exit_code if self.baseline and not self.left_behind else 3
        if self.killed < self.counted:
            return 1
        return 3 if not self.counted and any(r.refused for r in self.results) else 0


def whole_score(scores: Sequence[MutationScore]) -> str:
    """All of them in one line."""
    counted = sum(s.counted for s in scores if not s.unsound)
    killed = sum(s.killed for s in scores if not s.unsound)
    without = sum(s.percent is None for s in scores)
    share = f"noticed {killed} of {counted} mutants" + (f" ({100 * killed / counted:.0f}%)" if counted else "")
    return share + (f"; {without} of {len(scores)} scenarios without a score" if without else "")


def score_json(score: MutationScore) -> dict[str, Any]:
    """A score in plain values: what ``testbed verify --mutants --json`` prints and ``result.json`` holds."""
    return {
        "scenario": score.scenario.name,
        "promise": score.scenario.promise,
        "noticed": score.killed,
        "counted": score.counted,
        "percent": score.percent,
        "no_score": score.unsound,
        "baseline": record_json(score.baseline) if score.baseline else None,
        "mutants": [_result(r) for r in score.results],
    }


def _result(result: MutantResult) -> Mapping[str, Any]:
    plain = {"mutant": result.name, "result": result.said, "reason": result.reason}
    if result.record is None:
        return plain
    return plain | {"verdict": str(result.record.outcome), "seconds": round(result.record.seconds, 3)}
