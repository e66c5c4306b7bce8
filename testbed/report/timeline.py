"""A step with faults over time: faults as bands, successes and failures a second, latency, and marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from statistics import median

from testbed.report.record import FaultSpan, Mark, StepRecord

NARROW, WIDE, PER_SECOND = 640, 2400, 2.0
"""Least and greatest width, and what each second gets in between."""
LEFT, RIGHT = 56, 16
RATES, GAP, LATENCY, BOTTOM = 110, 26, 80, 34
NAMED = 12
"""So many faults have their names above the bands; of more, names are shown where one points at a band."""
LETTER, ROW = 6.2, 12
"""Width of a letter of a name, about, and height of its row."""
THIN = 2.0
"""Least width of a bar: of a long run, one stands for several seconds."""


@dataclass(frozen=True)
class _Canvas:
    """Where things are."""

    last: int
    """Seconds that are shown."""
    width: int
    top: int

    @property
    def foot(self) -> int:
        """Of the upper plot."""
        return self.top + RATES

    @property
    def floor(self) -> int:
        """Of the lower one."""
        return self.foot + GAP + LATENCY

    @property
    def bin(self) -> int:
        """Seconds of a bar."""
        return max(1, ceil(THIN * self.last / (self.width - LEFT - RIGHT)))

    def x(self, seconds: float) -> float:
        """A moment's place."""
        return LEFT + (self.width - LEFT - RIGHT) * min(max(seconds, 0.0), self.last) / self.last


def timeline_plot(step: StepRecord) -> str:
    """Empty for a step without faults."""
    if not step.faults or not step.samples:
        return ""
    last = max(1, ceil(max(*(s.sent for s in step.samples), *(f.ended for f in step.faults))))
    width = round(min(WIDE, max(NARROW, LEFT + RIGHT + PER_SECOND * last)))
    rows = _rows(step.faults, _Canvas(last, width, 0)) if len(step.faults) <= NAMED else []
    canvas = _Canvas(last, width, 16 + ROW * max(rows, default=0) + ROW)
    parts = ["<title>What happened when</title>", *_bands(step.faults, rows, canvas), *_traffic(step, canvas)]
    parts += [_mark(mark, canvas) for mark in step.marks]
    height = canvas.floor + BOTTOM
    plot = f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
    if width > NARROW:
        plot = f'<div style="overflow-x:auto"><div style="width:{width}px">{plot}</div></div>'
    return plot + _told(step)


def _name(fault: FaultSpan, canvas: _Canvas) -> tuple[float, float]:
    """From where to where its name goes: one that would leave the plot ends at its edge."""
    left, long = canvas.x(fault.bit) + 3, LETTER * len(fault.title)
    left = min(left, canvas.width - 3 - long)
    return left, left + long


def _rows(faults: Sequence[FaultSpan], canvas: _Canvas) -> list[int]:
    """The row of each fault's name: the first in which it covers no other."""
    taken: list[list[tuple[float, float]]] = []
    found: list[int] = []
    for left, right in (_name(f, canvas) for f in faults):
        clear = [all(right + LETTER <= a or b + LETTER <= left for a, b in names) for names in taken]
        if True not in clear:
            taken.append([])
            clear.append(True)
        found.append(clear.index(True))
        taken[found[-1]].append((left, right))
    return found


def _bands(faults: Sequence[FaultSpan], rows: Sequence[int], canvas: _Canvas) -> list[str]:
    parts: list[str] = []
    for number, fault in enumerate(faults):
        left, title = canvas.x(fault.bit), escape(fault.title)
        wide, tall = max(1.0, canvas.x(fault.ended) - left), canvas.floor - canvas.top
        times = f"{fault.bit:.1f} s to {fault.ended:.1f} s"
        parts.append(f'<rect class="band" x="{left:.1f}" y="{canvas.top}" width="{wide:.1f}" height="{tall}">')
        parts.append(f"<title>{title}, {times}</title></rect>")
        if rows:
            place = f'x="{_name(fault, canvas)[0]:.1f}" y="{12 + ROW * rows[number]}"'
            parts.append(f'<text class="small" {place}>{title}</text>')
    return parts


def _traffic(step: StepRecord, canvas: _Canvas) -> list[str]:
    good, bad, took = Counter[int](), Counter[int](), dict[int, list[float]]()
    for sample in step.samples:
        bar = int(sample.sent) // canvas.bin
        (good if sample.answered and sample.status < 500 else bad)[bar] += 1
        took.setdefault(bar, []).append(sample.took)
    most = max(good[b] + bad[b] for b in took)
    foot, floor, parts = canvas.foot, canvas.floor, list[str]()
    thick = max(1.0, canvas.x(canvas.bin) - canvas.x(0) - 1)
    for bar in sorted(took):
        up, down, at = RATES * good[bar] / most, RATES * bad[bar] / most, canvas.x(bar * canvas.bin)
        parts.append(f'<rect x="{at:.1f}" y="{foot - up:.1f}" width="{thick:.1f}" height="{up:.1f}"/>')
        if down:
            top, tall = foot - up - down, f'height="{down:.1f}"'
            parts.append(f'<rect class="lost" x="{at:.1f}" y="{top:.1f}" width="{thick:.1f}" {tall}/>')
    slowest = max(max(values) for values in took.values()) or 1.0
    middles = {bar: median(values) for bar, values in took.items()}
    for values, css in ((middles, "one"), ({b: max(v) for b, v in took.items()}, "two")):
        points = (
            (canvas.x((b + 0.5) * canvas.bin), floor - LATENCY * v / slowest) for b, v in sorted(values.items())
        )
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{css}" points="{line}"/>')
    return parts + _scales(most / canvas.bin, slowest, canvas)


def _mark(mark: Mark, canvas: _Canvas) -> str:
    at, css = canvas.x(mark.time), "mark revision" if mark.kind == "revision" else "mark"
    line = f'<line class="{css}" x1="{at:.1f}" x2="{at:.1f}" y1="{canvas.top}" y2="{canvas.floor}">'
    return f"{line}<title>{escape(mark.words)} at {mark.time:.2f} s</title></line>"


def _told(step: StepRecord) -> str:
    shown = "".join(
        f"<li>{f.bit:.2f} s to {f.ended:.2f} s: {escape(f.title)} on {escape(', '.join(f.nodes))} "
        f"({'held' if f.held else 'NOT PROVED'}: {escape(f.proof)}); well at {f.well:.2f} s</li>"
        for f in step.faults
    ) + "".join(f"<li>{m.time:.2f} s: {escape(m.words)}</li>" for m in step.marks)
    clocks = "; ".join(f"{c.node} {_off(c.before)}, {_off(c.after)} (± {c.resolution:.3f})" for c in step.clocks)
    if clocks:
        shown += f"<li>guests' clocks against the host's, before and after, in seconds: {escape(clocks)}</li>"
    told = f'<ul class="quiet">{shown}</ul>'
    if len(step.faults) <= NAMED:
        return told
    head = f"{len(step.faults)} faults, {len(step.marks)} marks"
    return f"<details><summary>{head}</summary>{told}</details>"


def _off(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds:+.3f}"


def _scales(most: float, slowest: float, canvas: _Canvas) -> list[str]:
    step = max(1, ceil(canvas.last / (canvas.width // 80)))
    middle, end = 'text-anchor="middle"', f'x2="{canvas.width - RIGHT}"'
    ticks = [
        f'<text class="small" x="{canvas.x(s):.1f}" y="{canvas.floor + 14}" {middle}>{s}</text>'
        for s in range(0, canvas.last + 1, step)
    ]
    bars = "second" if canvas.bin == 1 else f"{canvas.bin} seconds"
    return [
        *ticks,
        f'<line class="axis" x1="{LEFT}" {end} y1="{canvas.foot}" y2="{canvas.foot}"/>',
        f'<line class="axis" x1="{LEFT}" {end} y1="{canvas.floor}" y2="{canvas.floor}"/>',
        f'<text class="small" x="{LEFT - 6}" y="{canvas.top + 8}" text-anchor="end">{most:.3g}/s</text>',
        f'<text class="small" x="{LEFT - 6}" y="{canvas.foot + GAP + 8}" text-anchor="end">{slowest:.2g} s</text>',
        f'<text class="small" x="{(NARROW + LEFT) / 2}" y="{canvas.floor + 28}" {middle}>seconds; above: '
        f"answered and lost by {bars} of sending; below: median and slowest</text>",
    ]
