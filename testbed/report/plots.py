"""Plots as SVG, written by hand: the sequential test's path, latencies, and what was seen on each edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from math import ceil, log10

from testbed.model.topology import ProxyKind, Topology
from testbed.report.record import StepRecord, TestPath

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 34


def path_plot(path: TestPath) -> str:
    """Both one-sided tests on their way from 0 to a bound; the claim is accepted when both are at the top."""
    points = _thinned(path.points)
    last = max(2, path.points[-1][0]) if path.points else 2
    low, high = path.reject_at * 1.12, path.accept_at * 1.2

    def x(n: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * n / last

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [
        _frame(f"Sequential test of {path.arm}: {path.declared:.1%}, tolerated {path.low:.1%} to {path.high:.1%}")
    ]
    for bound, text, css in (
        (path.accept_at, "as declared", "accept"),
        (path.reject_at, "off by the tolerance", "reject"),
    ):
        at, right = y(bound), WIDTH - RIGHT
        parts.append(f'<line class="{css}" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="{css}" x="{right}" y="{at - 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>')
    for column, css, text in ((1, "one", f"against {path.low:.1%}"), (2, "two", f"against {path.high:.1%}")):
        line = " ".join(f"{x(p[0]):.1f},{y(p[column]):.1f}" for p in [(0, 0.0, 0.0), *points])
        parts.append(f'<polyline class="{css}" points="{line}"/>')
        parts.append(f'<text class="{css}" x="{LEFT + 100 * (column - 1)}" y="{HEIGHT - 4}">{text}</text>')
    parts += [_tick_x(x(n), str(n)) for n in _round_numbers(last)]
    parts += [_tick_y(y(v), f"{v:.1f}") for v in (path.accept_at, 0.0, path.reject_at)]
    parts.append(_label_x("requests"))
    return _svg(parts)


def latency_plot(step: StepRecord) -> str:
    """A histogram over a logarithmic axis: latencies of a proxy and of a timeout don't fit another."""
    took = sorted(s.took for s in step.samples if s.answered and s.took > 0)
    if not took:
        return ""
    low, high = log10(took[0]), max(log10(took[-1]), log10(took[0]) + 0.1)
    bins = 48
    counts = Counter(min(bins - 1, int((log10(t) - low) / (high - low) * bins)) for t in took)
    most = max(counts.values())
    width = (WIDTH - LEFT - RIGHT) / bins
    parts = [_frame(f"Latency of {len(took)} answers")]
    for slot, count in sorted(counts.items()):
        height = (HEIGHT - TOP - BOTTOM) * count / most
        left, top = LEFT + slot * width, HEIGHT - BOTTOM - height
        parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{width - 1:.1f}" height="{height:.1f}"/>')
    for name, share in (("50%", 0.5), ("99%", 0.99)):
        value = took[min(len(took) - 1, int(len(took) * share))]
        at = LEFT + (log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        anchor = "end" if at > WIDTH - 140 else "start"
        offset = -4 if anchor == "end" else 4
        row = TOP + (12 if name == "50%" else 26)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{at + offset:.1f}" y="{row}" text-anchor="{anchor}">{name}: {_seconds(value)}</text>'
        )
    for i in range(5):
        value = 10 ** (low + (high - low) * i / 4)
        parts.append(_tick_x(LEFT + (WIDTH - LEFT - RIGHT) * i / 4, _seconds(value), "end" if i == 4 else "middle"))
    parts += [
        _tick_y(HEIGHT - BOTTOM, "0"),
        _tick_y(TOP, str(most)),
        _label_x("time until the answer (logarithmic)"),
    ]
    return _svg(parts)


def topology_plot(step: StepRecord, topology: Topology | None) -> str:
    """The caller, the workloads by machine, and how many requests were answered or arrived on each edge."""
    answered = Counter(s.headers["x-instance"] for s in step.samples if s.headers.get("x-instance"))
    arrived = Counter(a.workload for a in step.arrivals)
    refused = sum(1 for s in step.samples if not s.headers.get("x-instance"))
    named = [w for w in (topology.workloads if topology else ()) if w.kind is not ProxyKind.GATEWAY]
    nodes = {w.name: w.node for w in named}
    names = sorted(
        {*answered, *arrived} | {w.name for w in named if w.service in {n.rpartition("-")[0] for n in answered}}
    )
    rows = max(1, len(names) + (1 if refused else 0))
    height = 40 + rows * 44
    middle = height / 2
    parts = [f'<rect class="box" x="10" y="{middle - 18:.0f}" width="150" height="36" rx="5"/>']
    parts.append(f'<text x="85" y="{middle + 4:.0f}" text-anchor="middle">{escape(step.caller or "?")}</text>')
    total = max(1, len(step.samples))
    for row, name in enumerate(names):
        y = 24 + row * 44
        count, came = answered[name], arrived[name]
        told = f"{count} answered ({count / total:.1%})" + (f", {came} arrived" if came != count else "")
        css = "edge" if count or came else "edge none"
        parts.append(_edge(css, max(count, min(came, total)) / total, middle, y + 16))
        parts.append(f'<rect class="box" x="400" y="{y}" width="228" height="34" rx="5"/>')
        place = f" on {nodes[name]}" if nodes.get(name) else ""
        parts.append(
            f'<text x="410" y="{y + 14}"><tspan class="strong">{escape(name)}</tspan>{escape(place)}</text>'
        )
        parts.append(f'<text class="small" x="410" y="{y + 28}">{told}</text>')
    if refused:
        y = 24 + len(names) * 44
        parts.append(_edge("edge refused", refused / total, middle, y + 16))
        parts.append(f'<text class="refused" x="410" y="{y + 20}">{refused} answered by no program</text>')
    title = _frame("What was seen on each edge")
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{title}{"".join(parts)}</svg>'


def _edge(css: str, share: float, start: float, end: float) -> str:
    """A curve from the caller; the more requests, the wider."""
    curve = f"M160,{start:.0f} C280,{start:.0f} 280,{end} 400,{end}"
    return f'<path class="{css}" stroke-width="{1 + 7 * share:.1f}" d="{curve}"/>'


def _thinned(points: Sequence[tuple[int, float, float]], most: int = 600) -> list[tuple[int, float, float]]:
    step = max(1, ceil(len(points) / most))
    return [*points[::step], *points[-1:]]


def _frame(title: str) -> str:
    return f"<title>{escape(title)}</title>"


def _svg(parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _tick_x(at: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="small" x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{text}</text>'


def _tick_y(at: float, text: str) -> str:
    return f'<text class="small" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'


def _label_x(text: str) -> str:
    return f'<text class="small" x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{text}</text>'


def _round_numbers(last: int) -> list[int]:
    step = 10 ** int(log10(last))
    step = next(s for s in (step // 5, step // 2, step, 2 * step, 5 * step) if s >= 1 and last / s <= 6)
    return list(range(0, last + 1, step))


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value >= 1 else f"{value * 1000:.3g} ms"
