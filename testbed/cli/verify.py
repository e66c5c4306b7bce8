"""Commands on scenarios: verify, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import console, output
from testbed.errors import bad_input
from testbed.lab.lab import Lab
from testbed.report.plain import fault_summary
from testbed.report.record import ScenarioRecord
from testbed.report.score import MutationScore, score_json, whole_score

if TYPE_CHECKING:
    from testbed.workflows.chaos import ChaosReport


@click.command("verify")
@inventory_option
@json_option
@click.argument("scenarios", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="list the scenarios and run none")
@click.option("--mutants", is_flag=True, help="break what each scenario claims; it has to notice every time")
@click.option("--chaos", is_flag=True, help="break machines at random in place of scenarios, and look what holds")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="chaos: replays a schedule")
@click.option("--for", "length", default="3m", show_default=True, metavar="TIME", help="chaos: how long")
@click.option(
    "--shrink", "smaller", is_flag=True, help="chaos: of a schedule that fails, find the part that does it"
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evidence"),
    show_default=True,
    help="the folder that bundles are written to",
)
def verify_command(
    lab: Lab,
    as_json: bool,
    scenarios: tuple[str, ...],
    only_list: bool,
    mutants: bool,
    evidence: Path,
    chaos: bool,
    seed: int,
    length: str,
    smaller: bool,
) -> int:
    """Run SCENARIOS (files, names or tags) and judge them.

    If none is given: all that are shipped but for those that break machines, which `testbed verify fault` runs.

    Exit code 0 when all pass or don't apply, 1 when one fails, 3 when none fails and one is inconclusive.
    """
    from testbed.cli.tables import chaos_lines, verdict_lines
    from testbed.workflows.verify import scenario_files, verify

    if only_list:
        for file in scenario_files(scenarios):
            output.print(f"{file.scenario.name}: {file.scenario.promise} [dim]{', '.join(file.scenario.tags)}[/]")
        return 0

    if chaos:
        report = _chaos(lab, seed, length, smaller, evidence)
        if as_json:
            print_json(_chaos_as_dict(report))
        else:
            output.print("\n".join([*verdict_lines(report.record), *chaos_lines(report)]))
            console.print(f"evidence: {report.record.verdict.evidence}")
        return report.record.outcome.exit_code

    if mutants:
        return _mutants(lab, scenarios, evidence, as_json)

    def each(record: ScenarioRecord) -> None:
        if not as_json:
            output.print("\n".join(verdict_lines(record)))

    with lab.closing(), console.status("verifying") as shown:
        records = verify(
            lab, scenarios, progress=lambda what: shown.update(f"verifying {what}"), each=each, evidence=evidence
        )
    if as_json:
        print_json([_as_dict(r) for r in records])
    elif records:
        console.print(f"evidence: {records[0].verdict.evidence}")
    codes = {r.verdict.outcome.exit_code for r in records}
    return 1 if 1 in codes else max(codes, default=0)


def _chaos(lab: Lab, seed: int, length: str, smaller: bool, evidence: Path) -> ChaosReport:
    from testbed.model.durations import seconds
    from testbed.workflows.chaos import chaos

    try:
        wanted = seconds(length)
    except ValueError as e:
        raise bad_input("--for", str(e)) from None
    with lab.closing(), console.status(f"breaking machines, seed {seed}") as shown:
        say = shown.update if console.is_terminal else console.print
        return chaos(lab, seed, wanted, evidence=evidence, smaller=smaller, progress=say)


def _chaos_as_dict(report: ChaosReport) -> dict[str, object]:
    return _as_dict(report.record) | {
        "under_faults": [fault_summary(step) for step in report.record.steps],
        "left_behind": list(report.left_behind),
        "smaller": [f.model_dump(mode="json", by_alias=True, exclude_none=True) for f in report.smaller],
        "replay": report.replay,
    }


def _mutants(lab: Lab, scenarios: tuple[str, ...], evidence: Path, as_json: bool) -> int:
    from testbed.workflows.verify import mutation_scores

    def each(score: MutationScore) -> None:
        if not as_json:
            _print_score(score)

    with lab.closing(), console.status("verifying") as shown:
        # elsewhere than on a terminal a line for each mutant that begins: a run takes long
        progress = shown.update if console.is_terminal else lambda what: console.print(escape(what))
        scores = mutation_scores(lab, scenarios, progress=progress, each=each, evidence=evidence)
    if as_json:
        print_json([score_json(s) for s in scores])
    else:
        output.print(whole_score(scores))
        bundles = {s.baseline.verdict.evidence for s in scores if s.baseline} - {""}
        console.print("\n".join(f"evidence: {bundle}" for bundle in bundles))
    codes = {s.exit_code for s in scores}
    return 1 if 1 in codes else max(codes, default=0)


def _print_score(score: MutationScore) -> None:
    output.print(f"{score.scenario.name}: {escape(score.said)}")
    for result in score.results:
        if not result.killed:
            said = f"[red]{result.said}[/]" if result.counts else result.said
            outcome = f"{result.record.outcome}: " if result.counts and result.record else ""
            output.print(
                f"  {said}: {escape(result.name)}: {escape(outcome + result.reason.partition(chr(10))[0])}"
            )


@click.command("report")
@json_option
@click.option("--junit", is_flag=True, help="JUnit XML on stdout")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
def report_command(as_json: bool, junit: bool, bundle: Path) -> None:
    """Show what a BUNDLE (a folder that `verify` wrote) has: its page, or its verdicts as JSON or JUnit XML."""
    name = "result.json" if as_json else "junit.xml" if junit else "report.html"
    file = bundle / name
    if not file.is_file():
        raise bad_input(str(bundle), f"no bundle: it has no {name}", "name a folder that `testbed verify` wrote")
    click.echo(file.read_text() if as_json or junit else file.resolve().as_uri())


def _as_dict(record: ScenarioRecord) -> dict[str, object]:
    verdict = record.verdict
    return {
        "scenario": record.scenario.name,
        "verdict": verdict.outcome.value,
        "reason": verdict.reason,
        "numbers": dict(verdict.numbers),
        "alpha": verdict.alpha,
        "beta": verdict.beta,
        "seconds": round(record.seconds, 2),
        "evidence": verdict.evidence,
    }
