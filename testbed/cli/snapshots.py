"""Commands on states of a whole lab: snapshot, reset, cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import Progress
from testbed.lab.lab import Lab
from testbed.lab.snapshots import Snapshot
from testbed.workflows.snapshot import RestoreReport


@click.group("snapshot")
def snapshot_command() -> None:
    """Save the whole lab, RAM included, and bring it back: every time the same, in seconds."""


@snapshot_command.command("save")
@inventory_option
@json_option
@click.argument("name")
def save_command(lab: Lab, as_json: bool, name: str) -> None:
    """Save the lab as NAME.  All machines stand still at one instant, for seconds, and go on."""
    from testbed.workflows.snapshot import save

    with lab.closing():
        snapshot = save(lab, name, lambda plan: Progress(plan, quiet=as_json).shown())
    manifest = snapshot.manifest
    if as_json:
        print_json(_values(snapshot))
    else:
        click.echo(
            f"{name}: saved, {_mib(snapshot.bytes_on_disk)}; the machines stood still for {manifest.pause:.1f} s, "
            f"their services for {manifest.standing:.1f} s"
        )


@snapshot_command.command("restore")
@inventory_option
@json_option
@click.argument("name")
def restore_command(lab: Lab, as_json: bool, name: str) -> None:
    """Bring the lab back to NAME, whatever state it is in; also when it is down.  The snapshot stays."""
    from testbed.workflows.snapshot import restore

    with lab.closing():
        report = restore(lab, name, lambda plan: Progress(plan, quiet=as_json).shown())
    _tell(report, as_json)


@snapshot_command.command("list")
@inventory_option
@json_option
def list_command(lab: Lab, as_json: bool) -> None:
    """Show the lab's snapshots, the last used one first."""
    from testbed.lab.snapshots import named_store

    _show(named_store(lab.id).all(), as_json, f"{lab.id}: no snapshots")


@snapshot_command.command("show")
@inventory_option
@json_option
@click.option("--check", is_flag=True, help="compare every file with its checksum")
@click.argument("name")
def show_command(lab: Lab, as_json: bool, check: bool, name: str) -> None:
    """Show what NAME was saved from."""
    from testbed.lab.snapshots import named_store

    snapshot = named_store(lab.id).get(name)
    if check:
        snapshot.check()
    values = _values(snapshot)
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        click.echo(f"{key}: {value}")


@snapshot_command.command("delete")
@inventory_option
@click.argument("name")
def delete_command(lab: Lab, name: str) -> None:
    """Delete NAME.  A lab that was restored from it goes on."""
    from testbed.workflows.snapshot import delete

    freed = delete(lab, name)
    click.echo(f"{name}: deleted, {_mib(freed)}")


@snapshot_command.command("export")
@inventory_option
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--media/--no-media", default=True, help="with the image and the shared disk that its machines read")
def export_command(lab: Lab, name: str, file: Path, media: bool) -> None:
    """Write NAME to FILE, to be imported on a host like this one.  It holds the lab's keys."""
    from testbed.workflows.snapshot import hand_on

    size = hand_on(lab, name, file, media=media)
    click.echo(f"{name}: written to {file}, {_mib(size)}")


@snapshot_command.command("import")
@inventory_option
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--name", default="", help="another name than its own")
def import_command(lab: Lab, file: Path, name: str) -> None:
    """Make a snapshot of what `snapshot export` wrote to FILE."""
    from testbed.workflows.snapshot import take_in

    snapshot = take_in(lab, file, name)
    click.echo(f"{snapshot.manifest.name}: imported, {_mib(snapshot.bytes_on_disk)}")


@click.command("reset")
@inventory_option
@json_option
def reset_command(lab: Lab, as_json: bool) -> None:
    """Bring the lab back to the state just after `up` was verified."""
    from testbed.workflows.snapshot import reset

    with lab.closing():
        report = reset(lab, lambda plan: Progress(plan, quiet=as_json).shown())
    _tell(report, as_json)


@click.group("cache")
def cache_command() -> None:
    """Verified labs that `up` and `reset` restore from, and machines that new nodes start from."""


@cache_command.command("list")
@json_option
def cache_list_command(as_json: bool) -> None:
    """Show the labs in the cache, and the templates of machines, the last used one first."""
    from testbed.workflows.snapshot import cached_states

    _show(cached_states(), as_json, "the cache has no lab")


@cache_command.command("prune")
@json_option
@click.option("--keep", "mebibytes", default=0, show_default=True, help="MiB that may stay")
def cache_prune_command(as_json: bool, mebibytes: int) -> None:
    """Delete the least recently used labs and templates, until the rest takes at most what --keep says."""
    from testbed.workflows.snapshot import prune

    gone = prune(mebibytes * 2**20)
    if as_json:
        print_json([s.manifest.name for s in gone])
    else:
        click.echo("\n".join(f"{s.manifest.name}: deleted" for s in gone) or "nothing to delete")


def _tell(report: RestoreReport, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    seconds = f"{report.total:.1f} s"
    click.echo(f"{report.lab.id}: as in {report.snapshot}; in force, and every edge answered: {seconds}")


def _show(snapshots: Sequence[Snapshot], as_json: bool, none: str) -> None:
    if as_json:
        print_json([_values(s) for s in snapshots])
        return
    from testbed.cli.tables import snapshot_table

    click.echo(snapshot_table(snapshots) if snapshots else none)


def _values(snapshot: Snapshot) -> dict[str, object]:
    manifest = snapshot.manifest
    return {
        "name": manifest.name,
        "lab": manifest.lab,
        "saved": manifest.saved.isoformat(timespec="seconds"),
        "verified": manifest.verified,
        "nodes": ", ".join(manifest.nodes),
        "revision": manifest.revision,
        "accelerator": manifest.emulated.accelerator,
        "qemu": manifest.emulated.qemu,
        "machine": manifest.emulated.machine,
        "cpu": manifest.emulated.cpu,
        "pause": manifest.pause,
        "standing": manifest.standing,
        "apart": manifest.apart,
        "bytes": snapshot.bytes_on_disk,
        "folder": str(snapshot.folder),
    }


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
