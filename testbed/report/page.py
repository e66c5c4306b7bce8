"""One HTML page that needs nothing else: readable by somebody who wasn't there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from testbed.model.topology import Topology
from testbed.model.verdict import Outcome, Verdict
from testbed.report.plain import UNEXPLAINED, answered_by, cause_of, redacted
from testbed.report.plots import latency_plot, path_plot, topology_plot
from testbed.report.record import ScenarioRecord, StepRecord
from testbed.report.timeline import timeline_plot

_STYLE = files("testbed.report").joinpath("page.css").read_text()

_MEANING = {
    Outcome.PASS: "the mesh does what it promises",
    Outcome.FAIL: "the mesh does not do what it promises",
    Outcome.INCONCLUSIVE: "the lab could not tell; nothing is said of the mesh",
    Outcome.NOT_APPLICABLE: "the question does not arise in this lab",
}


SHOWN = 300
"""Losses that the page lists; ``result.json`` has all."""
_INTRODUCTION = """Each scenario below is a promise that the service mesh's configuration makes. Testbed put the
configuration into the mesh, waited until every proxy answered with it, sent requests from one workload to another,
and compared what came back, and what arrived, with the promise."""


def html_page(records: Sequence[ScenarioRecord], topology: Topology | None = None) -> str:
    """The page's text.  No script, no other file, no network."""
    return page_of(records, [section(f"s{i}", r, topology) for i, r in enumerate(records)])


def page_of(records: Sequence[ScenarioRecord], sections: Sequence[str]) -> str:
    """The page of records whose sections have been made (``s0``, ``s1``, ...)."""
    counts = Counter(r.outcome for r in records)
    summary = ", ".join(f"{counts[o]} {o}" for o in Outcome if counts[o]) or "no scenario was run"
    started = records[0].started.strftime("%Y-%m-%d %H:%M:%S UTC") if records else ""
    rows = "".join(
        f'<tr><td class="outcome {r.outcome}">{r.outcome}</td><td><a href="#s{i}">{escape(_title(r))}</a></td>'
        f'<td>{escape(r.scenario.promise)}</td><td class="n">{r.seconds:.1f} s</td></tr>'
        for i, r in enumerate(records)
    )
    legend = "".join(f"<li><span class='outcome {o}'>{o}</span>: {text}</li>" for o, text in _MEANING.items())
    return document(
        summary,
        f'<h1>What the mesh did</h1><p>{escape(summary)}. <span class="quiet">Started {started}.</span></p>'
        f"<p>{_INTRODUCTION}</p>"
        f"<table><thead><tr><th>Verdict</th><th>Scenario</th><th>Promise</th><th>Time</th></tr></thead>{rows}</table>"
        f"<details><summary>What the verdicts mean</summary><ul>{legend}</ul></details>{''.join(sections)}",
    )


def document(title: str, body: str) -> str:
    """A whole page that needs nothing else."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Testbed: {escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _title(record: ScenarioRecord) -> str:
    return f"{record.scenario.name} [{record.mutant}]" if record.mutant else record.scenario.name


def section(anchor: str, record: ScenarioRecord, topology: Topology | None = None) -> str:
    """A scenario's part of the page."""
    before = ("", *(s.resources for s in record.steps))
    steps = "".join(
        _step(step, topology) + _given(step, last) for step, last in zip(record.steps, before, strict=False)
    )
    left = "" if record.clean else '<p class="FAIL">The lab could not be put back as it was.</p>'
    # with several steps each says its own reason; of all of them only one that went wrong is the whole's
    whole = len(record.steps) == 1 or record.outcome is not Outcome.PASS
    reason = f'<p class="reason">{escape(record.verdict.reason)}</p>' if whole else ""
    return (
        f'<section id="{anchor}"><h2><span class="outcome {record.outcome}">{record.outcome}</span> '
        f"{escape(_title(record))}</h2><p><strong>{escape(record.scenario.promise)}</strong></p>"
        f'<p class="quiet">{escape(record.scenario.description)}</p>'
        f"{reason}{_errors(record.verdict)}{left}{steps}</section>"
    )


def _given(step: StepRecord, last: str) -> str:
    """The resources of a step; those of the step before are not shown again."""
    if not step.resources or step.resources == last:
        return ""
    resources = redacted(step.resources.encode()).decode()
    return f"<details><summary>Resources in force</summary><pre>{escape(resources)}</pre></details>"


def _step(step: StepRecord, topology: Topology | None) -> str:
    title = (
        f"<h3>{escape(step.name)} <span class='outcome {step.verdict.outcome}'>{step.verdict.outcome}</span></h3>"
    )
    head = title if step.name else ""
    reason = f'<p class="reason">{escape(step.verdict.reason)}</p>' if step.name else ""
    if not step.samples:
        return head + reason
    facts = [
        f"{len(step.samples)} requests from {step.caller} in {step.sample_seconds:.1f} s",
        f"{len(step.arrivals)} arrivals in the programs' own logs",
        f"revision {step.revision}",
        f"in force after {step.apply_seconds:.1f} s",
    ]
    if step.discarded:
        facts.append(f"{step.discarded} samples thrown away: a revision changed while they were taken")
    facts += [
        f"{m.node} sent {m.sent_again} of {m.sent} TCP segments again, {m.needless} without need"
        for m in step.machines
        if m.sent_again
    ]
    plots = [
        *(_figure(path_plot(p), _PATH.format(arm=p.arm, declared=p.declared)) for p in step.paths if p.points),
        _figure(topology_plot(step, topology), "Who called whom, and how many of the requests each answered."),
        _figure(latency_plot(step), "How long the callers waited: each bar counts answers."),
    ]
    rows = "".join(f"<tr><td>{escape(w)}</td><td class='n'>{n}</td></tr>" for w, n in answered_by(step).items())
    parts = "".join(
        f"<tr><td>{escape(name)}</td><td class='outcome {v.outcome}'>{v.outcome}</td>"
        f"<td>{escape(v.reason)}</td></tr>"
        for name, v in step.verdict.parts
    )
    return (
        f'{head}{reason}<p class="quiet">{escape("; ".join(facts))}</p>'
        + (f"<table>{parts}</table>" if parts else "")
        + timeline_plot(step)
        + _losses(step)
        + f'<div class="plots">{"".join(plots)}</div>'
        + f"<details><summary>Who answered</summary><table>{rows}</table></details>"
    )


def _losses(step: StepRecord) -> str:
    """Some hundreds of them, those without a cause before all others, and how many there were of each cause."""
    if not step.losses:
        return ""
    shown = sorted(sorted(step.losses, key=lambda x: (bool(x.cause), bool(x.doubt)))[:SHOWN], key=lambda x: x.seq)
    rows = "".join(
        f"<tr><td class='n'>{x.seq}</td><td class='n'>{x.sent:.2f} s</td><td>{escape(x.answer)}</td>"
        f"<td>{escape(cause_of(x))}</td></tr>"
        for x in shown
    )
    counts = Counter(" and ".join(x.kinds) or ("in doubt" if x.doubt else UNEXPLAINED) for x in step.losses)
    kinds = "".join(f"<tr><td>{escape(k)}</td><td class='n'>{n}</td></tr>" for k, n in counts.most_common(SHOWN))
    more = len(step.losses) - len(shown)
    rest = f"<p class='quiet'>{more} more are in result.json.</p>" if more else ""
    head = "<tr><th>Request</th><th>Sent</th><th>Answer</th><th>Cause</th></tr>"
    return (
        f"<details><summary>What was lost, and why</summary><table>{kinds}</table>"
        f"<table>{head}{rows}</table>{rest}</details>"
    )


_PATH = (
    "Is the share of {arm} {declared:.1%}? Each line weighs that, request by request, against a share that is too "
    "low or too high. Both at the green line: yes. One at the red line: no."
)


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>" if plot else ""


def _errors(verdict: Verdict) -> str:
    if not (verdict.alpha or verdict.beta):
        return ""
    return (
        f'<p class="quiet">Chance of a FAIL if the mesh is exactly right: at most {verdict.alpha:.2g}. '
        f"Chance of a PASS if it is off by the tolerance: at most {verdict.beta:.2g}.</p>"
    )
