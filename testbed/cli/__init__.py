"""The command line.  No logic of its own: arguments in, a workflow called, its value shown.

Commands are imported when they are called for, so that ``testbed dial`` starts quickly.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import click

from testbed.errors import LabError, TestbedError

_COMMANDS = {
    "doctor": "host",
    "plan": "lab",
    "up": "lab",
    "down": "lab",
    "stop": "lab",
    "start": "lab",
    "status": "lab",
    "scale": "scale",
    "snapshot": "snapshots",
    "reset": "snapshots",
    "cache": "snapshots",
    "ssh": "nodes",
    "dial": "nodes",
    "console": "nodes",
    "logs": "nodes",
    "export": "nodes",
    "apply": "mesh",
    "applied": "mesh",
    "proxy": "mesh",
    "verify": "verify",
    "fault": "fault",
    "report": "verify",
    "artifacts": "artifacts",
    "lint": "files",
    "migrate": "files",
    "explain": "files",
}


class _Commands(click.Group):
    """Finds each command in the module that holds it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"testbed.cli.{_COMMANDS[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_") + "_command")
        assert isinstance(command, click.Command)  # noqa: S101
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="testbed")
def app() -> None:
    """Build a lab of real virtual machines, put a service mesh on it, and prove what the mesh does.

    Exit codes: 0 done; 1 the lab or a scenario failed; 2 bad input; 3 inconclusive; 4 the host is not ready;
    5 `plan --detailed-exitcode` has changes to make.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:  # noqa: PLR0911  (an exit code for each kind of end)
    """Run one command; returns its exit code and never lets a traceback out."""
    try:
        result = app.main(arguments, prog_name="testbed", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TestbedError as e:
        _complain(e)
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("testbed: interrupted; run the command again, or: testbed down", err=True)
        return 130
    except OSError as e:  # full disks, closed folders: the host's trouble, said by its own words
        subject = str(e.filename or "host")
        _complain(LabError(subject, "use it", e.strerror or str(e), "run: testbed doctor"))
        return 1
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except Exception as e:  # noqa: BLE001  (the last line of defence: a traceback goes to a file, not to people)
        return _bug(e)


def _complain(error: TestbedError) -> None:
    for line in str(error).splitlines():
        click.echo(f"{click.style('error', fg='red', bold=True)}: {line}", err=True)
    if error.next_step:
        click.echo(f"{click.style('next', fg='cyan')}: {error.next_step}", err=True)


def _bug(error: Exception) -> int:
    from testbed.host.directories import state_root

    file = state_root() / "crash.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)))
    except OSError:
        file = Path("/dev/null")
    first = str(error).splitlines()[0] if str(error) else ""
    click.echo(f"error: testbed: a bug in Testbed: {type(error).__name__}: {first}", err=True)
    click.echo(f"next: report it with the traceback in {file}", err=True)
    return 1
