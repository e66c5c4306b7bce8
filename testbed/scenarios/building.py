"""From what a scenario expects to the judges that decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any as Value

from testbed.model.scenario import Expectation
from testbed.model.topology import Topology
from testbed.scenarios.answers import BodyJudge, HeaderJudge, StatusJudge
from testbed.scenarios.judge import All, Any, Judge, Not, Terms
from testbed.scenarios.shares import AtLeastOnceJudge, NeverJudge, SplitJudge

Builder = Callable[[Value, Terms, Topology], Judge]

BUILDERS: dict[str, Builder] = {
    "split": SplitJudge,
    "never": NeverJudge,
    "atLeastOnce": AtLeastOnceJudge,
    "status": lambda expected, terms, _: StatusJudge(expected, terms),
    "body": lambda expected, terms, _: BodyJudge(expected, terms),
    "header": lambda expected, terms, _: HeaderJudge(expected, terms),
}


def build(expectation: Expectation, terms: Terms, topology: Topology) -> Judge:
    """The judge of an expectation.  Each leaf may wrongly fail the whole, so they share alpha equally."""
    leaves = sum(1 for _ in walk(expectation))
    return _build(expectation, replace(terms, alpha=terms.alpha / max(1, leaves)), topology)


def walk(expectation: Expectation) -> Iterator[tuple[str, Value]]:
    """Every leaf, with its name in the file."""
    for name, value in expectation.parts():
        if name in ("all", "any"):
            for part in value:
                yield from walk(part)
        elif name == "not":
            yield from walk(value)
        else:
            yield name, value


def headers_wanted(expectation: Expectation) -> tuple[str, ...]:
    """Headers of the answers that some judge reads, beyond those that are always reported."""
    leaves = [value for name, value in walk(expectation) if name in ("header", "split")]
    names = [getattr(v, "name", None) or getattr(v, "header", None) for v in leaves]
    return tuple(dict.fromkeys(n.lower() for n in names if n))


def _build(expectation: Expectation, terms: Terms, topology: Topology) -> Judge:
    judges: list[Judge] = []
    for name, value in expectation.parts():
        if name == "all":
            judges.append(All([_build(v, terms, topology) for v in value]))
        elif name == "any":
            judges.append(Any([_build(v, terms, topology) for v in value]))
        elif name == "not":
            judges.append(Not(_build(value, terms, topology)))
        else:
            judges.append(BUILDERS[name](value, terms, topology))
    return judges[0] if len(judges) == 1 else All(judges)
