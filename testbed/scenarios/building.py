"""From what a scenario expects to the judges that decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any as Value

from testbed.model.expectation import Expectation
from testbed.model.overtime import ErrorsDuring
from testbed.model.topology import Topology
from testbed.scenarios.answers import BodyJudge, HeaderJudge, StatusJudge
from testbed.scenarios.invariants import InvariantsJudge
from testbed.scenarios.judge import All, Any, Judge, Not, Terms
from testbed.scenarios.outliers import EjectedJudge, ReadmittedJudge
from testbed.scenarios.overtime import (
    ErrorsDuringJudge,
    GoodputJudge,
    IsolationJudge,
    TimeToEjectJudge,
    TimeToFailoverJudge,
    TimeToReadmitJudge,
    TimeToRecoverJudge,
)
from testbed.scenarios.proxies import ConfigJudge, IdentityJudge, TelemetryJudge
from testbed.scenarios.refusals import DeniedJudge, OverflowJudge
from testbed.scenarios.shares import AtLeastOnceJudge, NeverJudge, SplitJudge
from testbed.scenarios.spread import AttemptsJudge, BalanceJudge, StickyJudge
from testbed.scenarios.timing import LatencyJudge, TimeoutJudge
from testbed.scenarios.wire import EncryptedJudge

Builder = Callable[[Value, Terms, Topology], Judge]

BUILDERS: dict[str, Builder] = {
    "split": SplitJudge,
    "never": NeverJudge,
    "atLeastOnce": AtLeastOnceJudge,
    "status": lambda expected, terms, _: StatusJudge(expected, terms),
    "body": lambda expected, terms, _: BodyJudge(expected, terms),
    "header": lambda expected, terms, _: HeaderJudge(expected, terms),
    "denied": lambda expected, terms, _: DeniedJudge(expected, terms),
    "attempts": lambda expected, terms, _: AttemptsJudge(expected, terms),
    "timeout": lambda expected, terms, _: TimeoutJudge(expected, terms),
    "latency": lambda expected, terms, _: LatencyJudge(expected, terms),
    "sticky": lambda expected, terms, _: StickyJudge(expected, terms),
    "balance": lambda expected, terms, _: BalanceJudge(expected, terms),
    "overflow": lambda expected, terms, _: OverflowJudge(expected, terms),
    "ejected": lambda expected, terms, _: EjectedJudge(expected, terms),
    "readmitted": lambda expected, terms, _: ReadmittedJudge(expected, terms),
    "encrypted": lambda expected, terms, _: EncryptedJudge(expected, terms),
    "identity": lambda expected, terms, _: IdentityJudge(expected, terms),
    "config": lambda expected, terms, _: ConfigJudge(expected, terms),
    "telemetry": lambda expected, terms, _: TelemetryJudge(expected, terms),
    "timeToEject": lambda expected, terms, _: TimeToEjectJudge(expected, terms),
    "timeToReadmit": lambda expected, terms, _: TimeToReadmitJudge(expected, terms),
    "timeToFailover": TimeToFailoverJudge,
    "timeToRecover": lambda expected, terms, _: TimeToRecoverJudge(expected, terms),
    "errorsDuring": lambda expected, terms, _: ErrorsDuringJudge(expected, terms),
    "noErrors": lambda _expected, terms, _: ErrorsDuringJudge(ErrorsDuring(at_most=0), terms),
    "goodput": lambda expected, terms, _: GoodputJudge(expected, terms),
    "invariants": lambda expected, terms, _: InvariantsJudge(expected, terms),
    "isolation": lambda expected, terms, _: IsolationJudge(expected, terms),
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


def services_named(expectation: Expectation) -> tuple[str, ...]:
    """Services that some judge asks about."""
    names = [
        getattr(v, field, None) for _, v in walk(expectation) for field in ("service", "reached", "at", "workload")
    ]
    return tuple(dict.fromkeys(n for n in names if n))


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
