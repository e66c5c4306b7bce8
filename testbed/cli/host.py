"""Commands on the host: doctor."""

from __future__ import annotations

from dataclasses import asdict

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import console, output
from testbed.host.finding import Finding, Level
from testbed.lab.lab import Lab

_STYLES = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.MISSING: ("✗", "red")}


@click.command("doctor")
@inventory_option
@json_option
@click.option("--fix", "mend_it", is_flag=True, help="run the commands that mend what is missing")
def doctor_command(lab: Lab, as_json: bool, mend_it: bool) -> int:
    """Say what this host has and lacks for the lab, why it matters, and what mends it.

    Exit code 4 when something is missing without which a lab can't come up.
    """
    from testbed.workflows.doctor import doctor, mend

    findings = doctor(lab)
    if mend_it:
        done = mend(findings, lambda command: console.print(f"running: {' '.join(command)}"))
        for step in done:
            if step.status != 0:
                console.print(f"[red]failed[/] ({step.status}): {' '.join(step.command)}: {step.last_words}")
        if done:
            findings = doctor(lab)
    if as_json:
        print_json([asdict(f) for f in findings])
    else:
        for finding in findings:
            _show(finding)
    return 4 if any(f.level is Level.MISSING for f in findings) else 0


def _show(finding: Finding) -> None:
    mark, style = _STYLES[finding.level]
    output.print(f"[{style}]{mark}[/] [bold]{finding.name}[/]: {finding.detail}")
    if finding.level is not Level.OK:
        output.print(f"    why: {finding.why}")
        if finding.mend:
            output.print(f"    mend: {finding.mend}")
