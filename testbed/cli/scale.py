"""`scale`: how many instances of a workload there are."""

from __future__ import annotations

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import Progress
from testbed.lab.lab import Lab
from testbed.model.reading import nodes_of


@click.command("scale")
@inventory_option
@json_option
@click.option("--reset", is_flag=True, help="as many again as the inventory says")
@click.argument("workload", required=False)
@click.argument("number", type=int, required=False)
def scale_command(lab: Lab, as_json: bool, reset: bool, workload: str | None, number: int | None) -> None:
    """Have NUMBER instances of WORKLOAD (such as reviews-v3), each with a sidecar; without arguments, show them.

    The number outlives the command: `plan`, `up` and `start` keep it until it is set back, or the lab is reset.
    """
    if (workload is None) != (number is None and not reset) or (number is not None and reset):
        raise click.UsageError("give a workload and a number, or a workload and --reset, or nothing")
    with lab.closing():
        if workload is not None:  # loading all of it takes as long
            lab.meet_ahead(nodes_of(lab.inventory, workload))
        from testbed.workflows.scaling import scale, scaled

        if workload is None:
            found = scaled(lab)
            if as_json:
                print_json({s.workload: {"instances": s.replicas, "inventory": s.declared} for s in found})
            else:
                click.echo("\n".join(map(str, found)) or f"{lab.id}: as the inventory says")
            return
        report = scale(lab, workload, number, lambda plan: Progress(plan, quiet=as_json).shown())
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(f"{workload}: {report.before} -> {report.replicas} instances, in force ({report.total:.1f} s)")


def tell_scale(lab: Lab) -> None:
    """One line for each workload that is scaled."""
    from testbed.workflows.scaling import scaled

    for found in scaled(lab):
        click.echo(f"scaled: {found}; back: testbed scale {found.workload} --reset")
