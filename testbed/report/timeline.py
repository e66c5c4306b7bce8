"""A step with faults over time: faults as bands, successes and failures a second, latency, and marks."""

from __future__ import annotations

from collections import Counter
from html import escape
from math import ceil
from statistics import median

from testbed.report.record import StepRecord

WIDTH, LEFT, RIGHT, TOP = 640, 56, 16, 40
RATES, GAP, LATENCY, BOTTOM = 110, 26, 80, 34


def timeline_plot(step: StepRecord) -> str:
    """Empty for a step without faults."""
    if not step.faults or not step.samples:
        return ""
    last = max(1, ceil(max(*(s.sent for s in step.samples), *(f.ended for f in step.faults))))
    height = TOP + RATES + GAP + LATENCY + BOTTOM
    foot, floor = TOP + RATES, TOP + RATES + GAP + LATENCY

    def x(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(seconds, 0.0), last) / last

    parts = ["<title>What happened when</title>"]
    for number, fault in enumerate(step.faults):
        left, wide, tall = x(fault.bit), max(1.0, x(fault.ended) - x(fault.bit)), floor - TOP
        row, title = 12 + 12 * (number % 2), escape(fault.title)
        parts.append(f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{wide:.1f}" height="{tall}"/>')
        parts.append(f'<text class="small" x="{left + 3:.1f}" y="{row}">{title}</text>')
    good, bad, took = Counter[int](), Counter[int](), dict[int, list[float]]()
    for sample in step.samples:
        second = int(sample.sent)
        (good if sample.answered and sample.status < 500 else bad)[second] += 1
        took.setdefault(second, []).append(sample.took)
    most = max(good[s] + bad[s] for s in took)
    width = x(1) - x(0)
    for second in sorted(took):
        up, down = RATES * good[second] / most, RATES * bad[second] / most
        at, thick = x(second), max(1.0, width - 1)
        parts.append(f'<rect x="{at:.1f}" y="{foot - up:.1f}" width="{thick:.1f}" height="{up:.1f}"/>')
        if down:
            top = foot - up - down
            parts.append(f'<rect class="lost" x="{at:.1f}" y="{top:.1f}" width="{thick:.1f}" height="{down:.1f}"/>')
    middles = {second: median(values) for second, values in took.items()}
    slowest = max(max(values) for values in took.values()) or 1.0
    for values, css in ((middles, "one"), ({s: max(v) for s, v in took.items()}, "two")):
        line = " ".join(f"{x(s + 0.5):.1f},{floor - LATENCY * v / slowest:.1f}" for s, v in sorted(values.items()))
        parts.append(f'<polyline class="{css}" points="{line}"/>')
    for mark in step.marks:
        at = x(mark.time)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{floor}"><title>')
        parts.append(f"{escape(mark.words)} at {mark.time:.2f} s</title></line>")
    parts += _scales(last, most, slowest, foot, floor, x(0), x(last))
    shown = "".join(
        f"<li>{f.bit:.2f} s to {f.ended:.2f} s: {escape(f.title)} on {escape(', '.join(f.nodes))} "
        f"({'held' if f.held else 'NOT PROVED'}: {escape(f.proof)}); well at {f.well:.2f} s</li>"
        for f in step.faults
    ) + "".join(f"<li>{m.time:.2f} s: {escape(m.words)}</li>" for m in step.marks)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg><ul class="quiet">{shown}</ul>'


def _scales(last: int, most: int, slowest: float, foot: int, floor: int, start: float, end: float) -> list[str]:
    step = max(1, ceil(last / 8))
    middle = 'text-anchor="middle"'
    ticks = [
        f'<text class="small" x="{start + (end - start) * s / last:.1f}" y="{floor + 14}" {middle}>{s}</text>'
        for s in range(0, last + 1, step)
    ]
    return [
        *ticks,
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{foot}" y2="{foot}"/>',
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>',
        f'<text class="small" x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{most}/s</text>',
        f'<text class="small" x="{LEFT - 6}" y="{foot + GAP + 8}" text-anchor="end">{slowest:.2g} s</text>',
        f'<text class="small" x="{(WIDTH + LEFT) / 2}" y="{floor + 28}" text-anchor="middle">seconds; above: '
        "answered and lost by second of sending; below: median and slowest</text>",
    ]
