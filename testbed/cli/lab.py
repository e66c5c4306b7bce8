"""Commands on a whole lab: plan, up, stop, start, down, status."""

from __future__ import annotations

import time

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.scale import tell_scale
from testbed.cli.terminal import Progress, console
from testbed.lab.lab import Lab

cold_option = click.option("--cold", is_flag=True, help="build the machines, whatever the cache has")


clones_option = click.option(
    "--clones/--no-clones",
    default=True,
    help="start new machines from a template's memory, which is made the first time",
)


@click.command("plan")
@inventory_option
@json_option
@cold_option
@clones_option
@click.option("--detailed-exitcode", is_flag=True, help="exit with 5 when there is something to do")
def plan_command(lab: Lab, as_json: bool, cold: bool, clones: bool, detailed_exitcode: bool) -> int:
    """Show what `up` would do, and do nothing."""
    from testbed.cli.tables import plan_table
    from testbed.workflows.snapshot import preview

    with lab.closing():
        plan = preview(lab, cold=cold, clones=clones)
    if as_json:
        print_json([{"name": s.name, "does": s.does, "stage": s.stage, "needs": s.needs} for s in plan])
    elif plan:
        click.echo(plan_table(plan))
    else:
        click.echo(f"{lab.id}: nothing to do")
    if not as_json:
        tell_scale(lab)
    return 5 if plan and detailed_exitcode else 0


@click.command("up")
@inventory_option
@json_option
@cold_option
@clones_option
@click.option("--verify/--no-verify", "prove", default=True, help="prove the inventory's scenario at the end")
def up_command(lab: Lab, as_json: bool, cold: bool, clones: bool, prove: bool) -> int:
    """Bring the lab up: machines, mesh, resources, first proof.  Does only what differs from what is there.

    A lab that was brought up and verified before is restored from the cache, in seconds.
    """
    from testbed.cli.tables import up_table, verdict_lines
    from testbed.workflows.up import up

    begin = time.monotonic()
    with lab.closing():
        show = lambda plan: Progress(plan, quiet=as_json).shown()  # noqa: E731
        report = up(lab, show, prove=prove, cold=cold, clones=clones)
    if as_json:
        print_json(report.as_dict())
    elif not report.seconds:
        click.echo(f"{lab.id}: nothing to do ({time.monotonic() - begin:.1f} s)")
    else:
        if report.result is not None:
            console.print("\n".join(verdict_lines(report.result)))
        click.echo(up_table(report))
    if not as_json:
        tell_scale(lab)
    return report.exit_code


@click.command("down")
@inventory_option
@json_option
def down_command(lab: Lab, as_json: bool) -> None:
    """Remove the lab: machines, networks, processes, files.  The cache of images stays."""
    from testbed.workflows.down import down

    begin = time.monotonic()
    with lab.closing():
        removed = down(lab, lambda plan: Progress(plan, quiet=as_json).shown())
    seconds = time.monotonic() - begin
    if as_json:
        print_json({"removed": removed, "seconds": round(seconds, 2)})
    else:
        click.echo(f"{lab.id}: {'removed' if removed else 'nothing was there'} ({seconds:.1f} s)")


@click.command("stop")
@inventory_option
def stop_command(lab: Lab) -> None:
    """Power the machines off and keep their disks; `start` or `up` brings them back."""
    from testbed.workflows.power import stop

    with lab.closing():
        nodes = stop(lab)
    click.echo(f"{lab.id}: {len(nodes)} machines are off" if nodes else f"{lab.id}: nothing was running")


@click.command("start")
@inventory_option
def start_command(lab: Lab) -> int:
    """Power a stopped lab on again and wait until its mesh is in force."""
    from testbed.workflows.power import start

    with lab.closing():
        report = start(lab, lambda plan: Progress(plan).shown())
    click.echo(f"{lab.id}: up" if report.seconds else f"{lab.id}: nothing to do")
    return report.exit_code


@click.command("status")
@inventory_option
@json_option
def status_command(lab: Lab, as_json: bool) -> int:
    """Show machines, workloads, proxies and what is forwarded; exit code 1 when something is amiss."""
    from testbed.cli.tables import status_table
    from testbed.workflows.status import status

    with lab.closing():
        seen = status(lab)
    if as_json:
        print_json(seen.as_dict())
    else:
        click.echo(status_table(seen))
        tell_scale(lab)
    return 0 if seen.healthy or not seen.up else 1
