"""The report's figures as HTML and inline SVG; colour-blind safe colours of Okabe, Ito and Tol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PALETTE = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f7f7f"),
    *("#5e3c99", "#882255", "#44aa99"),
)
Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 46, 10, 8, 22
MOST_POINTS = 240


def number(value: float | None) -> str:
    """A number as people read it, to three digits or so; a dash where there is none."""
    if value is None:
        return "–"
    size = abs(value)
    form = (
        ",.0f"
        if size >= 1000 or float(value).is_integer()
        else "#.3g"
        if size >= 1
        else ".3f"
        if size >= 1e-3
        else ".2g"
    )
    return f"{value:{form}}".rstrip(".").replace("-", "−")


def _short(value: float) -> str:
    """A round number without its last zeros."""
    return number(value) if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def line_chart(name: str, points: Sequence[Point], over: str = "step") -> str:
    """One metric over the steps; the caption says where it began and ended. Over something else: a dot a point."""
    joined = over == "step"
    shown = _thinned(points) if joined else _thinned(sorted(points))
    (x0, x1), ticks = (shown[0][0], shown[-1][0]), _ticks([y for _, y in shown])
    y0, y1 = min(ticks[0], min(y for _, y in shown)), max(ticks[-1], max(y for _, y in shown))

    def place(x: float, y: float) -> Point:
        across = (x - x0) / ((x1 - x0) or 1.0) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    grid = [(_short(t), place(x0, t)[1]) for t in ticks]
    lines = "".join(
        f'<line class="tick" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        for text, y in grid
    )
    steps = f'<text x="{LEFT}" y="{HEIGHT - 5}">{number(x0)}</text>' if x1 > x0 else ""
    steps += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(over)} {number(x1)}</text>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in shown))
    dots = (place(*p) for p in (shown[-1:] if joined else shown))
    drawn = f'<polyline points="{path}"/>' if joined else ""
    drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>' for x, y in dots)
    change = f"{number(points[0][1])} → {number(points[-1][1])}"
    caption = f"<figcaption><b>{escape(name)}</b><span>{change}</span></figcaption>"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">{lines}{steps}{drawn}</svg>'
    return f"<figure>{caption}{svg}</figure>"


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences with their intervals around zero; rows {label, mean, low, high}, a bound None where unknown."""
    known = [v for row in rows for v in (row["mean"], row["low"], row["high"]) if v is not None]
    reach = 1.1 * max((abs(v) for v in known), default=1.0) or 1.0
    axis = f"<span>{_short(-reach)}</span><span>0</span><span>{_short(reach)}</span>"
    lines = "".join(_interval(row, reach) for row in rows)
    return f'{lines}<div class="row"><span></span><div class="axis">{axis}</div></div>'


def stacked_bar(label: str, parts: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """One bar of which each part [s] has its share, and what the colours mean."""
    total = sum(parts.values())
    pieces = (f'<i style="width:{100 * v / total:.2f}%;background:{colours[k]}"></i>' for k, v in parts.items())
    keys = (
        f'<span><i style="background:{colours[k]}"></i>{escape(k)} {number(v)} s ({v / total:.0%})</span>'
        for k, v in parts.items()
    )
    stack = f'<div class="stack">{"".join(pieces)}</div><div class="legend">{"".join(keys)}</div>'
    return f"<h3>{escape(label)}: {number(total)} s</h3>{stack}"


def _interval(row: Mapping[str, Any], reach: float) -> str:
    def at(value: float) -> str:
        return f"{50.0 + 50.0 * value / reach:.2f}%"

    low, high, mean = row["low"], row["high"], row["mean"]
    tone, marks, range_ = "", '<i class="zero" style="left:50%"></i>', ""
    if low is not None and high is not None:
        tone = "better" if low > 0 else "worse" if high < 0 else ""
        marks += f'<i class="span" style="left:{at(low)};right:calc(100% - {at(high)})"></i>'
        range_ = f" [{number(low)}, {number(high)}]"
    if mean is not None:
        marks += f'<i class="dot" style="left:{at(mean)}"></i>'
    told = f'{escape(row["label"])}<br><b class="{tone}">{number(mean)}</b><span class="soft">{range_}</span>'
    return f'<div class="row"><span>{told}</span><div class="track {tone}">{marks}</div></div>'


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS, each the mean of its neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(c[-1][0], sum(y for _, y in c) / len(c)) for c in chunks]


def _ticks(values: Sequence[float]) -> list[float]:
    """Two to five round numbers that span the values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
