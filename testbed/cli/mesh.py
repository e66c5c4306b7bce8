"""Commands on the mesh: apply, applied, proxy."""

from __future__ import annotations

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.lab.lab import Lab

_VIEWS = ("clusters", "routes", "endpoints", "listeners", "config", "stats", "log")


@click.command("apply")
@inventory_option
@json_option
@click.argument("files", nargs=-1, required=True)
@click.option("-f", "--filename", is_flag=True, hidden=True, help="accepted because kubectl has it")
@click.option("--diff", "only_diff", is_flag=True, help="show what would change, and change nothing")
@click.option("--prune", is_flag=True, help="take away what the files don't have")
@click.option("--delete", is_flag=True, help="take the files' resources away")
def apply_command(
    lab: Lab, as_json: bool, files: tuple[str, ...], filename: bool, only_diff: bool, prune: bool, delete: bool
) -> None:
    """Put Istio resources (FILES or folders) into the mesh; returns when they are in force."""
    from testbed.workflows import mesh

    del filename
    if prune and delete:
        raise click.UsageError("--prune and --delete exclude each other")
    with lab.closing():
        if only_diff:
            difference = mesh.diff(lab, files, prune=prune, delete=delete)
            if as_json:
                print_json({"resources": difference.resources, "proxies": dict(difference.changed)})
                return
            click.echo("\n".join(difference.resources) or "no resource differs")
            for workload, paths in difference.changed.items():
                click.echo(f"{workload}: {', '.join(paths)}")
            return
        change, applied = mesh.apply(lab, files, prune=prune, delete=delete)
    total = applied.push_seconds + applied.in_force_seconds + applied.drain_seconds
    if as_json:
        print_json(
            {
                "revision": applied.revision,
                "changed": dict(applied.changed),
                "removed": [str(k) for k in change.removed],
                "push_seconds": round(applied.push_seconds, 3),
                "in_force_seconds": round(applied.in_force_seconds, 3),
                "drain_seconds": round(applied.drain_seconds, 3),
            }
        )
        return
    for key in change.removed:
        click.echo(f"removed {key}")
    for problem in change.wanted.ignored:
        click.echo(f"ignored: {problem}", err=True)
    if not applied.changed:
        click.echo(f"nothing changed; revision {applied.revision} is in force")
    else:
        proxies = f"{len(applied.changed)} proxies: {', '.join(applied.changed)}"
        click.echo(f"revision {applied.revision} is in force after {total:.1f} s; changed {proxies}")


@click.command("applied")
@inventory_option
@json_option
def applied_command(lab: Lab, as_json: bool) -> None:
    """Show the resources in the mesh, as YAML, read back from the lab."""
    from testbed.resources import dump
    from testbed.workflows.mesh import backend_of
    from testbed.workflows.nodes import require_up

    with lab.closing():
        require_up(lab)
        resources = backend_of(lab).applied()
    if as_json:
        print_json([{"kind": r.kind, "namespace": r.namespace, "name": r.name} for r in resources])
    else:
        click.echo(dump(resources), nl=False)


@click.command("proxy")
@inventory_option
@click.argument("workload")
@click.argument("view", type=click.Choice(_VIEWS), default="clusters")
def proxy_command(lab: Lab, workload: str, view: str) -> None:
    """Show what the Envoy of WORKLOAD has, as it tells itself."""
    from testbed.workflows.mesh import proxy

    with lab.closing():
        click.echo(proxy(lab, workload, view), nl=False)
