"""What a person sees while a plan runs: the steps known ahead, what each waits for, elapsed time."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from testbed.lab.executor import StepEvent, StepState
from testbed.plan import Plan

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and errors go to stderr; stdout is for what was asked for."""

output = Console(highlight=False, soft_wrap=True)

_MARKS = {
    StepState.WAITING: ("·", "dim"),
    StepState.RUNNING: ("▸", "cyan"),
    StepState.DONE: ("✓", "green"),
    StepState.FAILED: ("✗", "red"),
    StepState.SKIPPED: ("-", "dim"),
}


_TELL_AGAIN = 30.0
"""Seconds between lines about a step that waits, where lines can't be redrawn."""


def one_line(text: str) -> str:
    """``text`` without line breaks and runs of blanks."""
    return " ".join(text.split())


def shortened(text: str, room: int) -> str:
    """``text`` in at most ``room`` characters: its beginning is what is waited for, its end what was seen last."""
    if len(text) <= room:
        return text
    head = room // 3
    return f"{text[:head]} … {text[len(text) - (room - head - 3) :]}"


class Progress:
    """Follows one plan.  On a terminal a table that redraws itself; elsewhere a line per step that ends, and one
    every half a minute that says what a step waits for."""

    def __init__(self, plan: Plan, *, quiet: bool = False) -> None:
        self._steps = {s.name: s for s in plan}
        self._states = dict.fromkeys(self._steps, StepState.WAITING)
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._seen: dict[str, str] = {}
        self._told: dict[str, float] = {}
        self._begin = time.monotonic()
        self._quiet = quiet
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show it for the length of a block."""
        if self._quiet or not self._steps:
            yield self
        elif sys.stderr.isatty():
            with Live(
                console=console, get_renderable=self._table, refresh_per_second=4, transient=False
            ) as self._live:
                yield self
        else:
            yield self

    def __call__(self, event: StepEvent) -> None:
        """Take note of a step's new state, or of what it waits for."""
        name = event.step.name
        if event.seen:
            self._waits(name, event.seen)
            return
        self._states[name] = event.state
        if event.state is StepState.RUNNING:
            self._started[name] = time.monotonic()
        elif event.state is not StepState.WAITING:
            self._seconds[name] = event.seconds or time.monotonic() - self._started.get(name, time.monotonic())
            if self._live is None and not self._quiet:
                mark, style = _MARKS[event.state]
                done = sum(1 for s in self._states.values() if s is StepState.DONE)
                at = f"{time.monotonic() - self._begin:6.1f}s {done:>3}/{len(self._steps)}"
                took = f"{self._seconds[name]:.1f}s"
                console.print(f"[{style}]{mark}[/] [dim]{at}[/] {name}: {event.step.does} [dim]{took}[/]")

    def _waits(self, name: str, seen: str) -> None:
        self._seen[name] = one_line(seen)
        now = time.monotonic()
        begun = self._started.get(name, self._begin)
        if self._live is None and not self._quiet and now - self._told.get(name, begun) >= _TELL_AGAIN:
            self._told[name] = now
            text = Text.assemble(
                ("… ", "cyan"), (f"{now - self._begin:6.1f}s ", "dim"), f"{name}: {self._seen[name]}"
            )
            console.print(text)

    def _table(self) -> Group:
        now = time.monotonic()
        table = Table(box=None, show_header=False, pad_edge=False)
        finished = Counter(s for s in self._states.values())
        for name, state in self._states.items():
            mark, style = _MARKS[state]
            if state is StepState.DONE:
                spent = f"{self._seconds[name]:.1f}s"
            elif state is StepState.RUNNING:
                spent = f"{now - self._started[name]:.0f}s"
            else:
                spent = ""
            waits = ""
            if state is StepState.WAITING:
                open_needs = [n for n in self._steps[name].needs if self._states[n] is not StepState.DONE]
                more = f" and {len(open_needs) - 1} more" if open_needs[1:] else ""
                # none is open for the moment between the last one's end and this step's start
                waits = f"waits for {open_needs[0]}{more}" if open_needs else ""
            does = self._steps[name].does
            table.add_row(Text(mark, style), Text(name), Text(does, "dim"), Text(spent), Text(waits, "dim"))
            if state is StepState.RUNNING and name in self._seen:
                # a table gives a long cell room at the others' expense
                room = max(40, console.width - max(map(len, self._steps)) - 12)
                table.add_row("", "", Text(shortened(self._seen[name], room), "yellow"), "", "")
        head = f"{finished[StepState.DONE]}/{len(self._steps)} steps  {now - self._begin:.0f}s"
        return Group(table, Text(head, "bold"))
