"""From what a scenario expects to the judges that decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any as Value

from testbed.model.expectation import Expectation
from testbed.model.overtime import ErrorsDuring
from testbed.model.topology import Topology
from testbed.scenarios import sharing
from testbed.scenarios.ambient import Unread, unread
from testbed.scenarios.answers import BodyJudge, HeaderJudge, StatusJudge
from testbed.scenarios.encryption import EncryptedJudge
from testbed.scenarios.invariants import InvariantsJudge
from testbed.scenarios.judge import All, Any, Judge, Not, Terms
from testbed.scenarios.outliers import EjectedJudge, ReadmittedJudge
from testbed.scenarios.overtime import (
    ErrorsDuringJudge,
    GoodputJudge,
    IsolationJudge,
    RescheduledJudge,
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
    "rescheduled": RescheduledJudge,
    "timeToFailover": TimeToFailoverJudge,
    "timeToRecover": lambda expected, terms, _: TimeToRecoverJudge(expected, terms),
    "errorsDuring": lambda expected, terms, _: ErrorsDuringJudge(expected, terms),
    "noErrors": lambda _expected, terms, _: ErrorsDuringJudge(ErrorsDuring(at_most=0), terms),
    "goodput": lambda expected, terms, _: GoodputJudge(expected, terms),
    "invariants": lambda expected, terms, _: InvariantsJudge(expected, terms),
    "isolation": lambda expected, terms, _: IsolationJudge(expected, terms),
}


def build(expectation: Expectation, terms: Terms, topology: Topology) -> Judge:
    """The judge of an expectation; what is in it shares the chances of an error that ``terms`` have."""
    parts = expectation.parts()
    shares = sharing.among_all(_errors(terms), [sharing.weight_of(*part) for part in parts])
    judges = [_judge(*part, _with(terms, share), topology) for part, share in zip(parts, shares, strict=True)]
    return judges[0] if len(judges) == 1 else All(judges)


def walk(expectation: Expectation) -> Iterator[tuple[str, Value]]:
    """Every leaf, with its name in the file."""
    return expectation.leaves()


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


def _judge(name: str, value: Value, terms: Terms, topology: Topology) -> Judge:
    if name == "not":
        return Not(build(value, _with(terms, _errors(terms).swapped), topology))
    if name not in ("all", "any"):
        if reason := unread(name, value, topology):
            return Unread(name, reason, terms)
        return BUILDERS[name](value, terms, topology)
    among, made = (sharing.among_all, All) if name == "all" else (sharing.among_any, Any)
    shares = among(_errors(terms), [sharing.weight(v) for v in value])
    return made([build(v, _with(terms, share), topology) for v, share in zip(value, shares, strict=True)])


def _errors(terms: Terms) -> sharing.Errors:
    return sharing.Errors(terms.alpha, terms.beta)


def _with(terms: Terms, errors: sharing.Errors) -> Terms:
    return replace(terms, alpha=errors.alpha, beta=errors.beta)
