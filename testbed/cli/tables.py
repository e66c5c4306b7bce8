"""Values as tables and lines for people."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from testbed.lab.lab import Lab
from testbed.lab.snapshots import Snapshot
from testbed.model.verdict import Outcome
from testbed.plan import ObservedMachine, Plan
from testbed.report.plain import fault_summary
from testbed.report.record import ScenarioRecord
from testbed.workflows.chaos import ChaosReport
from testbed.workflows.status import LabStatus
from testbed.workflows.up import UpReport

_COLOURS = {
    Outcome.PASS: "green",
    Outcome.FAIL: "red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.NOT_APPLICABLE: "dim",
}


def _rendered(*things: object) -> str:
    # as wide as its content when it goes to a file or a pipe: nothing is cut
    import sys

    on_terminal = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=on_terminal, width=None if on_terminal else 160, highlight=False)
    for thing in things:
        console.print(thing)
    return buffer.getvalue().rstrip("\n")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def plan_table(plan: Plan) -> str:
    """The steps, what each waits for, and how to see that it is done."""
    table = _table("STEP", "DOES", "AFTER", "DONE WHEN")
    for step in plan:
        needs = sorted(step.needs)
        after = ", ".join(needs[:2]) + (f" and {len(needs) - 2} more" if needs[2:] else "")
        table.add_row(step.name, step.does, after, step.done_when)
    return _rendered(table, f"{len(plan)} steps")


def verdict_lines(record: ScenarioRecord) -> list[str]:
    """A verdict in one line, and its reason in at most two."""
    verdict = record.verdict
    colour = _COLOURS[verdict.outcome]
    rate = f"alpha {verdict.alpha:g}, beta {verdict.beta:g}, " if verdict.alpha or verdict.beta else ""
    head = f"[{colour} bold]{verdict.outcome}[/] {record.scenario.name} [dim]({rate}{record.seconds:.1f} s)[/]"
    return [head, *(f"  {line}" for line in verdict.reason.splitlines()[:2])]


def chaos_lines(report: ChaosReport) -> list[str]:
    """What a schedule of faults came to, and how to have it again."""
    lines: list[str] = []
    for step in report.record.steps:
        found = fault_summary(step)
        proved = f"{found['proved']} of them proved" if found["unproved"] else "all proved"
        proved += f", {len(found['not_made'])} not made" if found["not_made"] else ""
        lines += [
            f"  requests: {found['requests']}",
            f"  faults: {found['faults']}, {proved}: {_counts(found['faults_by_kind'])}",
            f"  lost: {found['lost']}: {_counts(found['lost_by_kind'])}",
            f"  unexplained: {found['unexplained']}",
        ]
        lines += [f"  in doubt: {_counts(found['lost_in_doubt'])}"] if found["lost_in_doubt"] else []
        lines += [f"  [yellow]not proved[/]: {escape(f['fault'])}: {escape(f['proof'])}" for f in found["unproved"]]
        lines += [f"  [yellow]not seen[/]: {escape(words)}" for words in found["not_seen"]]
    left = "; ".join(map(escape, report.left_behind))
    lines.append(f"  left behind: {left or 'nothing'}")
    if report.smaller:
        lines.append("  a smaller schedule that fails as well:")
        lines += [f"    at {f.at:g} s: {escape(f.title)}, for {f.duration or 0:g} s" for f in report.smaller]
    return [*lines, f"  replay: {escape(report.replay)}"]


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {escape(name)}" for name, count in found.items()) or "none"


def up_table(report: UpReport) -> str:
    """Nodes, services, addresses, URLs, what to try next."""
    lab = report.lab
    stages = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in report.stages.items())
    return _rendered(
        *_lab_tables(lab),
        "",
        *_urls(report.urls.items()),
        f"[bold]{lab.id}[/] is up: {report.total:.1f} s ({stages})",
        *([f"Restored from the state of {report.restored}; every edge answered."] if report.restored else []),
        *([f"[yellow]Not saved for the next `up`[/]: {report.not_kept}"] if report.not_kept else []),
        *([f"[yellow]Booted, not cloned[/]: {report.not_cloned}"] if report.not_cloned else []),
        "",
        "Try next:",
        *(f"  {line}" for line in _next_steps(lab, report)),
    )


def _next_steps(lab: Lab, report: UpReport) -> Iterable[str]:
    inventory = "" if lab.id == "bookinfo" else f" -i {lab.id}"
    first = lab.inventory.nodes[0].name
    if report.urls:
        yield f"open {next(iter(report.urls.values()))} in a browser"
    yield f"testbed status{inventory}"
    yield f"testbed verify{inventory} --list"
    yield f"testbed ssh{inventory} {first} -- uptime"
    yield f"testbed down{inventory}"


def _urls(urls: Iterable[tuple[str, str]]) -> Iterable[str]:
    for gateway, url in urls:
        yield f"{gateway}: [link={url}]{url}[/link]"


def _lab_tables(lab: Lab) -> Iterable[object]:
    nodes = _table("NODE", "ADDRESS", "MESH ADDRESS", "ZONE", "WORKLOADS")
    for node in lab.inventory.nodes:
        here = [w.name for w in lab.topology.workloads if w.node == node.name]
        addresses = (lab.inventory.management_address(node.name), lab.inventory.mesh_address(node.name))
        nodes.add_row(node.name, *map(str, addresses), node.locality or "-", ", ".join(here) or "-")
    services = _table("SERVICE", "ADDRESS", "PORTS", "VERSIONS")
    for service in lab.topology.services:
        backing = [
            w for w in lab.topology.workloads if w.service == service.name and w.namespace == service.namespace
        ]
        ports = ", ".join(f"{p.number}/{p.protocol}" for p in service.ports)
        services.add_row(service.name, str(service.address), ports, ", ".join(sorted({w.version for w in backing})))
    return (nodes, "", services)


def status_table(status: LabStatus) -> str:
    """What is there, and what is not as it should be."""
    lab = status.lab
    if not status.up:
        return f"{lab.id}: not up" + (f"; busy: {status.busy}" if status.busy else "") + "\nnext: testbed up"
    nodes = _table("NODE", "MACHINE", "ADDRESS", "WORKLOADS")
    for node in lab.inventory.nodes:
        seen = status.observed.machines.get(node.name)
        state = _power(seen)
        here = [_at(w.name, status.away) for w in lab.topology.workloads if w.node == node.name]
        address = lab.inventory.management_address(node.name)
        nodes.add_row(node.name, _mark(state, state == "up"), str(address), ", ".join(here))
    proxies = _table("PROXY", "KIND", "ADDRESS", "STATE")
    for proxy in status.proxies:
        workload = lab.topology.workload(proxy.workload)
        state = proxy.summary.partition(": ")[2]
        proxies.add_row(proxy.workload, workload.kind.value, str(workload.address), _mark(state, proxy.in_force))
    busy = [f"busy: {status.busy}"] if status.busy else []
    return _rendered(nodes, "", proxies, "", *_urls(status.urls.items()), *busy)


def _at(workload: str, away: Mapping[str, str]) -> str:
    return f"{workload} (on {away[workload]})" if workload in away else workload


def _power(seen: ObservedMachine | None) -> str:
    if seen is None:
        return "missing"
    if not seen.running:
        return "paused" if seen.paused else "off"
    return "up" if seen.answers else "no answer"


def snapshot_table(snapshots: Iterable[Snapshot]) -> str:
    """Snapshots, a row each."""
    table = _table("NAME", "LAB", "SAVED", "VERIFIED", "MACHINES", "MIB", "PAUSE")
    for snapshot in snapshots:
        m = snapshot.manifest
        size = f"{snapshot.bytes_on_disk / 2**20:.0f}"
        saved = f"{m.saved:%Y-%m-%d %H:%M} UTC"
        table.add_row(m.name, m.lab, saved, m.verified or "-", str(len(m.nodes)), size, f"{m.pause:.1f} s")
    return _rendered(table)


def _mark(text: str, good: bool) -> str:
    return f"[{'green' if good else 'red'}]{text}[/]"
