"""Commands on single nodes: ssh, dial, console, logs, export."""

from __future__ import annotations

import subprocess
import sys

import click

from testbed.cli.options import inventory_option
from testbed.errors import bad_input
from testbed.lab.lab import Lab


@click.command("ssh", context_settings={"ignore_unknown_options": True})
@inventory_option
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh_command(lab: Lab, node: str, command: tuple[str, ...]) -> int:
    """A shell on NODE, or a COMMAND there: `testbed ssh app-1 -- uptime`."""
    from testbed.workflows.nodes import ssh_command as build

    with lab.closing():
        argv = build(lab, node, command)
    return subprocess.run(argv, check=False).returncode


@click.command("dial")
@inventory_option
@click.argument("address")
@click.argument("port", type=click.IntRange(1, 65535))
def dial_command(lab: Lab, address: str, port: int) -> int:
    """Connect standard input and output to ADDRESS PORT inside the lab (for SSH's ProxyCommand)."""
    from testbed.host.dial import main

    return main([lab.id, address, str(port)])


@click.command("console")
@inventory_option
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="go on showing what is written")
def console_command(lab: Lab, node: str, follow: bool) -> int:
    """Show what NODE has written to its serial console."""
    from testbed.workflows.nodes import console_file

    file = console_file(lab, node)
    tail = ["tail", "-n", "200", *(["-F"] if follow else []), str(file)]
    return subprocess.run(tail, check=False).returncode


@click.command("logs")
@inventory_option
@click.argument("workload")
@click.option("--access", is_flag=True, help="the sidecar's access log instead of its own log")
def logs_command(lab: Lab, workload: str, access: bool) -> None:
    """Show the log of WORKLOAD's sidecar."""
    from testbed.workflows.mesh import access_log, proxy_log

    with lab.closing():
        click.echo(access_log(lab, workload) if access else proxy_log(lab, workload), nl=False)


@click.command("export")
@inventory_option
@click.argument("what", type=click.Choice(["ssh-config", "ansible-inventory", "kubeconfig"]))
@click.option("--merge", is_flag=True, help="put the kubeconfig into your own, as context testbed-LAB")
def export_command(lab: Lab, what: str, merge: bool) -> None:
    """Write the lab's SSH configuration, Ansible inventory or kubeconfig to stdout."""
    from testbed.workflows.kubeconfig import kubeconfig, merge_kubeconfig
    from testbed.workflows.nodes import ansible_inventory, require_up, ssh_config

    if merge and what != "kubeconfig":
        raise bad_input("--merge", f"there is nothing to merge {what} into", "leave it out")
    with lab.closing():
        require_up(lab)
        if merge:
            click.echo(f"context testbed-{lab.id} is in {merge_kubeconfig(lab)}")
            return
        writers = {"ssh-config": ssh_config, "ansible-inventory": ansible_inventory, "kubeconfig": kubeconfig}
        sys.stdout.write(writers[what](lab))
