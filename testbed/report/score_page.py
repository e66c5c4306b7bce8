"""The report of a mutation run: what each scenario noticed, and in full what it did not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from testbed.model.topology import Topology
from testbed.model.verdict import Outcome
from testbed.report.junit import score_junit
from testbed.report.page import document, section
from testbed.report.record import ScenarioRecord
from testbed.report.score import MutantResult, MutationScore, score_json, whole_score

_INTRODUCTION = """Each scenario below was run as it stands, and then on resources that were broken on purpose, one
lie at a time. A scenario has noticed a lie when it FAILs by what its traffic showed; INCONCLUSIVE has not noticed.
One that does not pass with nothing broken has no score. What the mesh refused to take, and what changes nothing of
the promise, does not count."""


def score_files(scores: Sequence[MutationScore], topology: Topology | None = None) -> dict[str, bytes]:
    """The bundle's result, JUnit XML and page."""
    return {
        "result.json": json.dumps([score_json(s) for s in scores], indent=2).encode() + b"\n",
        "junit.xml": score_junit(scores).encode(),
        "report.html": score_page(scores, topology).encode(),
    }


def score_page(scores: Sequence[MutationScore], topology: Topology | None = None) -> str:
    """One page that needs nothing else."""
    summary = whole_score(scores)
    rows = "".join(
        f'<tr><td class="outcome {_color(s)}">{_share(s)}</td>'
        f'<td><a href="#m{i}">{escape(s.scenario.name)}</a></td><td>{escape(s.scenario.promise)}</td></tr>'
        for i, s in enumerate(scores)
    )
    head = "<tr><th>Score</th><th>Scenario</th><th>Promise</th></tr>"
    body = "".join(_scenario(f"m{i}", score, topology) for i, score in enumerate(scores))
    return document(
        summary,
        f"<h1>What the scenarios notice</h1><p>{escape(summary)}.</p><p>{_INTRODUCTION}</p>"
        f"<table><thead>{head}</thead>{rows}</table>{body}",
    )


def _scenario(anchor: str, score: MutationScore, topology: Topology | None) -> str:
    rows = "".join(
        f'<tr><td class="outcome {_css(r)}">{r.said}</td><td>{escape(r.name)}</td>'
        f"<td>{escape(_first(r.reason))}</td></tr>"
        for r in score.results
    )
    shown: list[ScenarioRecord] = [r.record for r in score.results if r.record and r.counts and not r.killed]
    if score.baseline is not None and score.baseline.outcome not in (Outcome.PASS, Outcome.NOT_APPLICABLE):
        shown.insert(0, score.baseline)
    full = "".join(section(f"{anchor}r{i}", record, topology) for i, record in enumerate(shown))
    table = f"<table><tr><th>Result</th><th>Mutant</th><th>Reason</th></tr>{rows}</table>" if rows else ""
    return (
        f'<section id="{anchor}"><h2>{escape(score.scenario.name)}</h2>'
        f"<p><strong>{escape(score.scenario.promise)}</strong></p><p>{escape(score.said)}</p>{table}{full}</section>"
    )


def _share(score: MutationScore) -> str:
    return "no score" if score.percent is None else f"{score.killed} of {score.counted}"


def _color(score: MutationScore) -> Outcome:
    if score.percent is None:
        return Outcome.NOT_APPLICABLE if score.exit_code == 0 else Outcome.INCONCLUSIVE
    return Outcome.PASS if score.killed == score.counted else Outcome.FAIL


def _css(result: MutantResult) -> Outcome:
    if not result.counts:
        return Outcome.NOT_APPLICABLE
    return Outcome.PASS if result.killed else Outcome.FAIL


def _first(text: str) -> str:
    return text.splitlines()[0] if text else ""
