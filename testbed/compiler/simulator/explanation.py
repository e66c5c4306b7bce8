"""What the simulator found out: where a request can end up, how likely, and what decided it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from testbed.errors import Location


@dataclass(frozen=True)
class Origin:
    """The resource that a decision comes from, and where it stands."""

    resource: str
    """``VirtualService default/reviews``."""
    location: Location | None = None

    def __str__(self) -> str:
        place = f" ({self.location})" if self.location is not None else ""
        return f"{self.resource}{place}"


@dataclass(frozen=True)
class Decision:
    """One thing that a proxy decided, in the order in which it did."""

    what: str
    """``listener``, ``route``, ``cluster``, ``policy``, ``token``, ``fault`` and the like."""
    name: str
    detail: str = ""
    origin: Origin | None = None

    def __str__(self) -> str:
        text = f"{self.what} {self.name}" if self.name else self.what
        text += f": {self.detail}" if self.detail else ""
        return f"{text}  <- {self.origin}" if self.origin is not None else text


@dataclass(frozen=True)
class Hop:
    """What one proxy did with the request."""

    proxy: str
    side: str
    """``outbound`` (the caller's sidecar), ``inbound`` (the called one's) or ``gateway``."""
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One way in which it can end.

    ``status`` is the HTTP status of an answer that a proxy gives itself; 0 stands for a closed connection,
    ``None`` for "whatever the program (or the host outside the mesh) answers".
    """

    probability: Fraction
    status: int | None
    answered_by: str
    """``proxy of <workload>``, ``workload <workload>``, ``host <address>``."""
    reason: str
    cluster: str = ""
    workload: str = ""
    """The workload that the request reached, if it did; its program, not merely its proxy."""
    hops: tuple[Hop, ...] = ()

    @property
    def decided_by(self) -> Decision | None:
        """The last decision with a resource behind it."""
        found = [d for hop in self.hops for d in hop.decisions if d.origin is not None]
        return found[-1] if found else None


@dataclass(frozen=True)
class Explanation:
    """All outcomes of a request; their probabilities add up to one."""

    request: str
    outcomes: tuple[Outcome, ...] = field(default=())

    def statuses(self) -> dict[int | None, Fraction]:
        """How likely each status is (``None``: the program's own answer)."""
        found: dict[int | None, Fraction] = {}
        for outcome in self.outcomes:
            found[outcome.status] = found.get(outcome.status, Fraction(0)) + outcome.probability
        return found

    def workloads(self) -> dict[str, Fraction]:
        """How likely each workload's program is to see the request; those that see none are left out."""
        found: dict[str, Fraction] = {}
        for outcome in self.outcomes:
            if outcome.workload:
                found[outcome.workload] = found.get(outcome.workload, Fraction(0)) + outcome.probability
        return found

    def to_json(self) -> dict[str, Any]:
        """The explanation in plain values; probabilities from 0 to 1."""
        return {"request": self.request, "outcomes": [_outcome_json(o) for o in self.outcomes]}

    def lines(self) -> Iterator[str]:
        """The explanation as people read it: what an outcome has in common with the one before it is left out."""
        yield self.request
        before: list[str] = []
        for outcome in self.outcomes:
            yield ""
            yield f"{_percent(outcome.probability):>6}  {_ending(outcome)}"
            way = [line for hop in outcome.hops for line in _hop_lines(hop)]
            same = next((n for n, (a, b) in enumerate(zip(way, before, strict=False)) if a != b), len(before))
            if same > 1:
                yield "        ..."
            yield from way[same:] if same > 1 else way
            before = way


_SELF_EVIDENT = ("virtual host", "route", "cluster")
"""What a called workload's own proxy decides on the way to its program."""


def _hop_lines(hop: Hop) -> Iterator[str]:
    side = {"outbound": "the caller's proxy", "inbound": "the called one's proxy", "gateway": "the gateway"}
    yield f"        {hop.proxy}, {side[hop.side]}"
    for decision in hop.decisions:
        if hop.side != "inbound" or decision.what not in _SELF_EVIDENT:
            yield f"          {decision}"


def merged(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Equal endings as one, the likeliest first; the way of the first stands for all."""
    found: dict[tuple[object, ...], Outcome] = {}
    for outcome in outcomes:
        ways = tuple((h.proxy, h.side, h.decisions) for h in outcome.hops)
        key = (outcome.status, outcome.answered_by, outcome.reason, outcome.cluster, outcome.workload, ways)
        if (known := found.get(key)) is not None:
            total = known.probability + outcome.probability
            outcome = Outcome(total, *(getattr(known, n) for n in _REST))  # noqa: PLW2901
        found[key] = outcome
    return tuple(sorted(found.values(), key=lambda o: -o.probability))


_REST = ("status", "answered_by", "reason", "cluster", "workload", "hops")


def _percent(probability: Fraction) -> str:
    return f"{float(probability * 100):.4g}%"


def _ending(outcome: Outcome) -> str:
    if outcome.status is None:
        return f"{outcome.answered_by} answers: {outcome.reason}"
    answer = "the connection is closed" if outcome.status == 0 else f"status {outcome.status}"
    return f"{answer} by {outcome.answered_by}: {outcome.reason}"


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "probability": float(outcome.probability),
        "status": outcome.status,
        "answeredBy": outcome.answered_by,
        "reason": outcome.reason,
        "cluster": outcome.cluster,
        "workload": outcome.workload,
        "hops": [
            {"proxy": h.proxy, "side": h.side, "decisions": [_decision_json(d) for d in h.decisions]}
            for h in outcome.hops
        ],
    }


def _decision_json(decision: Decision) -> dict[str, Any]:
    out: dict[str, Any] = {"what": decision.what, "name": decision.name, "detail": decision.detail}
    if decision.origin is not None:
        out["resource"] = decision.origin.resource
        if (place := decision.origin.location) is not None:
            out |= {"file": place.file, "line": place.line, "field": place.field}
    return out
