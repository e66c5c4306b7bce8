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


class Progress:
    """Follows one plan.  On a terminal a table that redraws itself; elsewhere a line per step that ends."""

    def __init__(self, plan: Plan, *, quiet: bool = False) -> None:
        self._steps = {s.name: s for s in plan}
        self._states = dict.fromkeys(self._steps, StepState.WAITING)
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}
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
        """Take note of a step's new state."""
        name = event.step.name
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
                waits = f"waits for {open_needs[0]}" + (
                    f" and {len(open_needs) - 1} more" if open_needs[1:] else ""
                )
            does = self._steps[name].does
            table.add_row(Text(mark, style), Text(name), Text(does, "dim"), Text(spent), Text(waits, "dim"))
        head = f"{finished[StepState.DONE]}/{len(self._steps)} steps  {now - self._begin:.0f}s"
        return Group(table, Text(head, "bold"))
