"""Commands on releases of other people's programs: artifacts list, pull, verify, mirror."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import console
from testbed.lab.lab import Lab

if TYPE_CHECKING:
    from rich.progress import TaskID

    from testbed.artifacts import Artifact, OnProgress, State

_EVERYTHING = click.option("--all", "everything", is_flag=True, help="all versions, not only this inventory's")
_LOCK = click.option(
    "--lock",
    type=click.Path(dir_okay=False, path_type=Path),
    help="the lock file; default: constraints/artifacts.lock",
)


@click.group("artifacts")
def artifacts_command() -> None:
    """Releases that labs are made from: Envoy, k3s, Istio and its images.

    They are pulled once, checked against the sums that their projects publish, and pinned in a lock file.
    """


@artifacts_command.command("list")
@inventory_option
@_EVERYTHING
@_LOCK
@json_option
def list_command(lab: Lab, everything: bool, lock: Path | None, as_json: bool) -> int:
    """Show what the inventory needs, and what of it the cache has."""
    _show(_states(lab, everything, lock), as_json)
    return 0


@artifacts_command.command("verify")
@inventory_option
@_EVERYTHING
@_LOCK
@json_option
def verify_command(lab: Lab, everything: bool, lock: Path | None, as_json: bool) -> int:
    """Read every artifact in the cache again and compare it with the lock; exit code 1 when one differs."""
    states = _states(lab, everything, lock)
    _show(states, as_json)
    return 0 if all(state == "ok" for _, state in states) else 1


@artifacts_command.command("pull")
@inventory_option
@_EVERYTHING
@_LOCK
@click.option(
    "--mirror", envvar="TESTBED_MIRROR", default="", show_envvar=True, help="a folder or an address asked first"
)
@json_option
def pull_command(lab: Lab, everything: bool, lock: Path | None, mirror: str, as_json: bool) -> int:
    """Bring what the inventory needs into the cache and check it.  What broke off goes on where it ended."""
    from testbed.workflows.artifacts import pull, store_of, wanted_artifacts

    wanted = wanted_artifacts(lab, everything=everything)
    with _bars(quiet=as_json) as on_progress:
        pulled = pull(store_of(lock), wanted, mirror, on_progress)
    rows = [{"path": p.artifact.path, "sha256": p.pin.sha256, "size": p.pin.size, "from": p.source} for p in pulled]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['path']}  {row['size']} bytes  from {row['from']}")
        click.echo(f"{len(rows) + 1} artifacts are in the cache")
    return 0


@artifacts_command.command("mirror")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@inventory_option
@_EVERYTHING
@_LOCK
def mirror_command(folder: Path, lab: Lab, everything: bool, lock: Path | None) -> int:
    """Write FOLDER, from which the lab can be made with no network: TESTBED_MIRROR=FOLDER testbed up."""
    from testbed.workflows.artifacts import mirror_to, store_of, wanted_artifacts

    wanted = wanted_artifacts(lab, everything=everything)
    mirror_to(store_of(lock), wanted, folder)
    click.echo(f"{folder}: {len(wanted) + 1} artifacts")
    return 0


@artifacts_command.command("samples")
@json_option
def samples_command(as_json: bool) -> int:
    """Build the container image of the sample services, an archive for any cluster; about a minute, once."""
    from testbed.workflows.artifacts import build_samples

    def progress(stage: str) -> None:
        console.print(f"building the image of the sample services: {stage}")

    image = build_samples(progress)
    if as_json:
        print_json({"reference": image.reference, "archive": str(image.archive)})
    else:
        click.echo(f"{image.reference}  {image.archive}")
    return 0


def _states(lab: Lab, everything: bool, lock: Path | None) -> list[tuple[str, State]]:
    from testbed.workflows.artifacts import envoy_state, store_of, wanted_artifacts

    found = store_of(lock).states(wanted_artifacts(lab, everything=everything))
    return [envoy_state(), *((artifact.path, state) for artifact, state in found)]


def _show(states: list[tuple[str, State]], as_json: bool) -> None:
    if as_json:
        print_json([{"path": path, "state": str(state)} for path, state in states])
        return
    for path, state in states:
        click.echo(f"{state:<11} {path}")


@contextmanager
def _bars(*, quiet: bool) -> Iterator[OnProgress]:
    """A bar an artifact on a terminal; elsewhere nothing, since what was pulled is listed at the end."""
    import sys

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    if quiet or not sys.stderr.isatty():
        yield lambda artifact, have, whole: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(artifact: Artifact, have: int, whole: int) -> None:
            if artifact.path not in tasks:
                tasks[artifact.path] = progress.add_task(artifact.path)
            progress.update(tasks[artifact.path], completed=have, total=whole or None)

        yield show
