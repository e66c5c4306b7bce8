"""Commands that break the lab's machines: fault KIND TARGET, fault list, fault clear."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.options import inventory_option, json_option, print_json
from testbed.cli.terminal import console
from testbed.faults.breaking import Made
from testbed.lab.lab import Lab
from testbed.model.fault import FaultKind

if TYPE_CHECKING:
    from testbed.workflows.faults import Cleared


@click.command("fault")
@inventory_option
@json_option
@click.argument("kind", type=click.Choice([*(k.value for k in FaultKind), "list", "clear"]), metavar="KIND")
@click.argument("target", nargs=-1)
@click.option("--for", "duration", metavar="TIME", help="undo it after so long (30s, 2m); else it stays")
@click.option("--peer", multiple=True, help="partition: the other side")
@click.option("--one-way", is_flag=True, help="partition: lose only what TARGET sends")
@click.option("--port", type=int, help="partition: only this TCP port")
@click.option("--period", metavar="TIME", help="link-flap: one time down and up")
@click.option("--delay", metavar="TIME", help="slow-link")
@click.option("--jitter", metavar="TIME", help="slow-link")
@click.option("--loss", type=float, metavar="PERCENT", help="slow-link")
@click.option("--duplicate", type=float, metavar="PERCENT", help="slow-link")
@click.option("--reorder", type=float, metavar="PERCENT", help="slow-link")
@click.option("--rate", type=int, metavar="KIB/S", help="slow-link, disk-slow")
@click.option("--both-ways", is_flag=True, help="slow-link: shape what TARGET is sent, too")
@click.option("--leave", type=int, metavar="MIB", help="memory-pressure: what stays available")
@click.option("--by", metavar="TIME", help="clock-jump: how far, such as 1h or -90s")
@click.option("--drift", type=float, metavar="PERCENT", help="clock-drift: too fast, or too slow (-10 to 10)")
@click.option(
    "--only", type=click.Choice(["dns", "control-plane"]), help="partition: from that alone, without a peer"
)
def fault_command(lab: Lab, as_json: bool, kind: str, target: tuple[str, ...], **options: Any) -> int:
    """Break TARGET (nodes, workloads, services, service/version or zones) the way that KIND says.

    \b
    `testbed fault list` shows what is broken, `testbed fault clear` mends all of it.
    Exit code 3 when the fault did not prove that it took hold, or has nothing to hit in such a lab.
    """
    from testbed.workflows.faults import clear, fault_of, make, standing

    with lab.closing():
        if kind == "list":
            found = standing(lab)
            if as_json:
                print_json(
                    [{"id": s.id, "fault": s.fault.title, "since": s.since, "nodes": s.nodes} for s in found]
                )
            for s in () if as_json else found:
                since = datetime.fromtimestamp(s.since, UTC).strftime("%H:%M:%S UTC")
                owner = f"for pid {s.owner.pid}" if s.owner else "until it is cleared"
                click.echo(f"{s.id}  {s.fault.title}  since {since}  {owner}")
            if not found and not as_json:
                click.echo(f"{lab.id}: nothing is broken")
            return 0
        if kind == "clear":
            began = time.monotonic()
            cleared = clear(lab)
            if as_json:
                print_json([_plain(m) for m in cleared.mended])
            else:
                _tell_cleared(lab.id, cleared, time.monotonic() - began)
            if cleared.trouble:
                raise cleared.trouble
            return 0
        fault = fault_of({"kind": kind, "target": list(target), "for": options.pop("duration"), **_lists(options)})
        made = make(lab, fault, told=lambda made: None if as_json else console.print(_told(made)))
    if as_json:
        print_json(_plain(made))
    elif made.well:
        click.echo(f"mended after {made.ended - made.bit:.1f} s, well {made.well - made.ended:.1f} s later")
    else:
        click.echo(f"{made.fault.title}: until `testbed fault clear`")
    return 0 if made.proof.held else 3


def _tell_cleared(lab: str, cleared: Cleared, seconds: float) -> None:
    for made in cleared.mended:
        click.echo(f"mended {made.fault.title} on {', '.join(made.nodes)}")
    for stray in cleared.strays:
        click.echo(f"removed the filter of {stray}, of which no machine had a note")
    count = len(cleared.mended) + len(cleared.strays)
    if count or cleared.trouble:
        left = f", {len(cleared.trouble.trouble)} could not be" if cleared.trouble else ""
        click.echo(f"{lab}: {count} mended{left} ({seconds:.1f} s)")
    else:
        click.echo(f"{lab}: nothing is broken")


def _lists(options: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def _told(made: Made) -> str:
    took = f"{(made.bit - made.began) * 1000:.0f} ms"
    held = "it holds" if made.proof.held else "[red]it did not prove that it holds[/]"
    return f"{made.fault.title} on {', '.join(made.nodes)} ({took}): {held}: {made.proof.words}"


def _plain(made: Made) -> dict[str, object]:
    return {
        "id": made.id,
        "fault": made.fault.title,
        "nodes": list(made.nodes),
        "seconds_to_bite": round(made.bit - made.began, 4),
        "seconds_held": round(made.ended - made.bit, 4) if made.ended and made.bit else None,
        "seconds_to_be_well": round(made.well - made.ended, 4) if made.well else None,
        "held": made.proof.held,
        "proof": made.proof.words,
    }
