"""Draws statistics.svg: requests needed by the sequential test, and how often each rule says yes.

    python docs/explanation/statistics_plot.py

Everything is exact: dynamic programming for the sequential test, binomial sums for the fixed rules.
"""

from pathlib import Path

from testbed.statistics import EquivalenceTest, binomial_cdf, characteristics, tolerated

WIDTH, HEIGHT, LEFT, RIGHT = 760, 300, 60, 20
COLORS = {"mean": "#2b6cb0", "yes": "#1a7f4b", "fixed": "#c22f2f"}


def fixed_rule(share: float, total: int = 100, slack: int = 10) -> float:
    """How often a share passes "100 requests, 50 give or take 10"."""
    return binomial_cdf(50 + slack, total, share) - binomial_cdf(50 - slack - 1, total, share)


def line(points: list[tuple[float, float]], color: str, dash: str = "") -> str:
    """A series."""
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", color: str = "#445") -> str:
    """A label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def panel(
    top: float, title: str, ticks: list[tuple[float, str]], series: list[tuple[str, str, list[float]]]
) -> str:
    """A plot over the true share; values are shares of its height."""
    shares = [s / 200 for s in range(60, 141)]

    def x(share: float) -> float:
        return LEFT + (share - 0.3) / 0.4 * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return top + HEIGHT - 50 - value * (HEIGHT - 90)

    parts = [text(LEFT, top + 20, title, "start", "#111")]
    for value, label in ticks:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ccd"/>'
        )
        parts.append(text(LEFT - 8, y(value) + 4, label, "end"))
    for bound in (0.4, 0.6):
        parts.append(line([(x(bound), y(1)), (x(bound), y(0))], "#999", "3 3"))
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        parts.append(text(x(share), top + HEIGHT - 32, f"{share:.0%}"))
    parts.append(
        text(
            (LEFT + WIDTH) / 2,
            top + HEIGHT - 12,
            "true share of v1, declared 50%; at the dashed lines and beyond it is wrong",
        )
    )
    for i, (label, color, values) in enumerate(series):
        parts.append(line([(x(s), y(v)) for s, v in zip(shares, values, strict=True)], color))
        parts.append(text(WIDTH - RIGHT, top + 20 + 16 * i, label, "end", color))
    return "".join(parts)


def drawn() -> str:
    """The picture."""
    test = EquivalenceTest(tolerated(0.5, 0.1))
    shares = [s / 200 for s in range(60, 141)]
    exact = [characteristics(test, s) for s in shares]
    top = 1200.0
    needed = panel(
        0,
        "Requests until the verdict (mean)",
        [(n / top, str(n)) for n in (0, 300, 600, 900, 1200)],
        [("sequential test, 10 points, 0.001", COLORS["mean"], [c.mean_requests / top for c in exact]),
         ("fixed: 100 requests", COLORS["fixed"], [100 / top] * len(shares))],
    )  # fmt: skip
    yes = panel(
        HEIGHT,
        "How often it says yes",
        [(0, "0%"), (0.25, "25%"), (0.5, "50%"), (0.75, "75%"), (1, "100%")],
        [("sequential test, 10 points, 0.001", COLORS["yes"], [c.accept for c in exact]),
         ("fixed: 40 to 60 of 100", COLORS["fixed"], [fixed_rule(s) for s in shares])],
    )  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{needed}{yes}</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_name("statistics.svg").write_text(drawn())
