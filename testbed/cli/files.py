"""Commands on manifests: lint, migrate, explain."""

from __future__ import annotations

import json
from importlib.metadata import version

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import console, output
from testbed.lab.lab import Lab


@click.command("lint")
@inventory_option
@json_option
@click.option("--sarif", is_flag=True, help="SARIF 2.1.0 on stdout, for code hosts")
@click.argument("files", nargs=-1, required=True)
def lint_command(lab: Lab, as_json: bool, sarif: bool, files: tuple[str, ...]) -> int:
    """Say what is wrong in Istio manifests (FILES or folders), what Istio does with it, and what to write.

    Exit code 2 when there is an error among the findings.
    """
    from testbed.resources.linting import Severity
    from testbed.resources.linting.output import to_json, to_sarif
    from testbed.workflows.manifests import lint_files

    findings = lint_files(lab, files)
    if sarif:
        click.echo(json.dumps(to_sarif(findings, version("testbed")), indent=2))
    elif as_json:
        print_json(to_json(findings))
    else:
        for finding in findings:
            click.echo(str(finding))
            click.echo(f"    Istio: {finding.effect}")
            if finding.advice:
                click.echo(f"    next: {finding.advice}")
        click.echo(f"{len(findings)} findings" if findings else "nothing to say")
    return 2 if any(f.severity is Severity.ERROR for f in findings) else 0


@click.command("migrate")
@json_option
@click.option("--write", is_flag=True, help="replace the files' content; without it the result goes to stdout")
@click.argument("files", nargs=-1, required=True)
def migrate_command(as_json: bool, write: bool, files: tuple[str, ...]) -> None:
    """Rewrite outdated manifests (FILES or folders) to today's forms, and say what changes meaning."""
    from testbed.workflows.manifests import migrate_files, write_migration

    results = migrate_files(files)
    if as_json:
        print_json(
            [
                {"file": path, "changes": list(map(str, m.changes)), "warnings": list(map(str, m.warnings))}
                for path, m in results
            ]
        )
    for path, migration in results:
        for change in migration.changes:
            console.print(f"changed: {change}", markup=False)
        for warning in migration.warnings:
            console.print(f"warning: {warning}", markup=False, style="yellow")
            if warning.next_step:
                console.print(f"   next: {warning.next_step}", markup=False)
        if write and migration.changes:
            write_migration(path, migration)
        elif not write and not as_json:
            output.print(migration.text, markup=False, end="")
    changed = sum(1 for _, m in results if m.changes)
    console.print(f"{changed} of {len(results)} files {'rewritten' if write else 'would change'}")


@click.command("explain")
@inventory_option
@json_option
@click.option("--from", "source", required=True, metavar="WORKLOAD", help="who sends it; a gateway: from outside")
@click.option("-X", "--request", "method", default="GET", show_default=True, help="the method")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="a header, repeatable")
@click.option("-f", "--filename", "files", multiple=True, help="resources to go by, instead of the lab's")
@click.argument("url")
def explain_command(
    lab: Lab, as_json: bool, source: str, method: str, headers: tuple[str, ...], files: tuple[str, ...], url: str
) -> None:
    """Say where a request to URL would go, and by which resource, without sending it."""
    from testbed.workflows.manifests import explain_request

    with lab.closing():
        explanation = explain_request(lab, source, url, method=method, headers=headers, files=files)
    if as_json:
        print_json(explanation.to_json())
    else:
        click.echo("\n".join(explanation.lines()))
