"""Commands on scenarios: verify, report."""

from __future__ import annotations

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import console, output
from testbed.lab.lab import Lab
from testbed.report.record import ScenarioRecord


@click.command("verify")
@inventory_option
@json_option
@click.argument("scenarios", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="list the scenarios and run none")
def verify_command(lab: Lab, as_json: bool, scenarios: tuple[str, ...], only_list: bool) -> int:
    """Run SCENARIOS (files, names or tags; all that are shipped, if none is given) and judge them.

    Exit code 0 when all pass or don't apply, 1 when one fails, 3 when none fails and one is inconclusive.
    """
    from testbed.cli.tables import verdict_lines
    from testbed.workflows.verify import scenario_files, verify

    if only_list:
        for file in scenario_files(scenarios):
            output.print(f"{file.scenario.name}: {file.scenario.promise} [dim]{', '.join(file.scenario.tags)}[/]")
        return 0

    def each(record: ScenarioRecord) -> None:
        if not as_json:
            output.print("\n".join(verdict_lines(record)))

    with lab.closing(), console.status("verifying") as shown:
        records = verify(lab, scenarios, progress=lambda what: shown.update(f"verifying {what}"), each=each)
    if as_json:
        print_json([_as_dict(r) for r in records])
    codes = {r.verdict.outcome.exit_code for r in records}
    return 1 if 1 in codes else max(codes, default=0)


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
