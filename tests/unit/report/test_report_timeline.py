"""A timeline can be read: names cover no other, an hour is wider than a minute, marks are told apart."""

import re
from dataclasses import replace
from itertools import pairwise

from testbed.model.verdict import passed
from testbed.report.record import FaultSpan, Mark, StepRecord
from testbed.report.timeline import timeline_plot
from testbed.traffic import Sample


def busy(count, seconds):
    """A run of so many faults in a row."""
    samples = tuple(Sample(i, 0, 200, i / 4, 0.01, 1, {}, "", "") for i in range(4 * seconds))
    every = seconds / count
    spans = tuple(
        FaultSpan(f"freeze reviews-v{i}", ("one",), every * i, every * i, every * i + 1, every * i + 2, True, "")
        for i in range(count)
    )
    return StepRecord("", passed("ok"), samples=samples, faults=spans)


def names(plot):
    """Row -> (from, to) of each name above the bands, by a letter's width."""
    found = re.findall(r'<text class="small" x="([0-9.]+)" y="(\d+)">(freeze[^<]*)<', plot)
    rows = {}
    for x, y, title in found:
        rows.setdefault(int(y), []).append((float(x), float(x) + 6 * len(title)))
    return rows


def test_names_of_faults_cover_no_other():
    rows = names(timeline_plot(busy(10, 60)))
    assert sum(map(len, rows.values())) == 10
    for row in rows.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(row)))
        assert max(right for _, right in row) <= 640


def test_an_hour_of_faults_is_wide_and_names_only_what_one_points_at():
    plot = timeline_plot(busy(360, 3600))
    assert names(plot) == {} and plot.count("freeze reviews-v7, 70.0 s to 71.0 s") == 1
    assert 'viewBox="0 0 2400 ' in plot and "overflow-x" in plot
    assert plot.count('class="band"') == 360 and "<summary>360 faults" in plot
    assert "by 4 seconds of sending" in plot
    widths = [float(w) for w in re.findall(r'<rect x="[^"]+" y="[^"]+" width="([0-9.]+)"', plot)]
    assert len(widths) == 900 and min(widths) >= 1


def test_a_new_revision_is_another_mark_than_an_ejection():
    step = replace(busy(1, 30), marks=(Mark(2.0, "one ejected", "one"), Mark(9.0, "one has abc", kind="revision")))
    plot = timeline_plot(step)
    assert plot.count('class="mark"') == 1 and plot.count('class="mark revision"') == 1
    assert "one has abc at 9.00 s" in plot
