"""How the two chances of an error are shared out, so that the whole scenario keeps to those that it declares.

A wrong FAIL of ``all`` (and of steps in a row) takes one part that fails wrongly, so parts share alpha; a wrong
PASS takes an error of that very part which does not hold, so each has the whole of beta (Berger 1982).  For ``any``
it is the other way round, and ``not`` swaps the two.  What is counted and not estimated never errs by chance: it
takes no share from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.model.expectation import Expectation
from testbed.model.scenario import Scenario, Step


@dataclass(frozen=True)
class Errors:
    """Chances of a wrong FAIL and of a wrong PASS."""

    alpha: float = 0.001
    beta: float = 0.001

    @property
    def swapped(self) -> Errors:
        """Of the opposite."""
        return Errors(self.beta, self.alpha)


def may_err(name: str, value: Any) -> bool:
    """Whether the leaf ``name`` of an expectation guesses from a sample, and may refuse what is exactly right."""
    if name == "split":
        whole = sum(value.weights.values())
        return any(0 < weight < whole for weight in value.weights.values())
    if name == "balance":
        return bool(value.policy != "ROUND_ROBIN")
    return name in ("atLeastOnce", "latency")


def misses(name: str, value: Any) -> bool:
    """Whether the leaf ``name`` may miss what is wrong, because its sample is finite."""
    return name in ("split", "never", "goodput") or (name != "atLeastOnce" and may_err(name, value))


@dataclass(frozen=True)
class Weight:
    """In how many shares a part of an expectation takes alpha, and in how many beta."""

    alpha: int
    beta: int


def weight(expectation: Expectation) -> Weight:
    """Of an expectation with all that is in it."""
    return _all([weight_of(name, value) for name, value in expectation.parts()])


def weight_of(name: str, value: Any) -> Weight:
    """Of one field of an expectation."""
    if name == "all":
        return _all([weight(v) for v in value])
    if name == "any":
        parts = [weight(v) for v in value]
        return Weight(max((w.alpha for w in parts), default=0), sum(w.beta for w in parts))
    if name == "not":
        inner = weight(value)
        return Weight(inner.beta, inner.alpha)
    return Weight(int(may_err(name, value)), int(misses(name, value)))


def of_step(step: Step, scenario: Scenario) -> Errors:
    """A step's share of what its scenario declares."""
    steps = sum(weight(s.expect).alpha for s in scenario.each_step())
    return Errors(_part(scenario.alpha, weight(step.expect).alpha, steps), scenario.beta)


def among_all(errors: Errors, weights: list[Weight]) -> list[Errors]:
    """For parts that must all hold."""
    whole = sum(w.alpha for w in weights)
    return [Errors(_part(errors.alpha, w.alpha, whole), errors.beta) for w in weights]


def among_any(errors: Errors, weights: list[Weight]) -> list[Errors]:
    """For parts of which one must hold."""
    whole = sum(w.beta for w in weights)
    return [Errors(errors.alpha, _part(errors.beta, w.beta, whole)) for w in weights]


def _all(parts: list[Weight]) -> Weight:
    return Weight(sum(w.alpha for w in parts), max((w.beta for w in parts), default=0))


def _part(chance: float, shares: int, whole: int) -> float:
    # who takes none has no use for it
    return chance * shares / whole if shares else chance
