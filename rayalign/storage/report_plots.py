"""The report's figures as HTML and inline SVG, and its style; colour-blind safe colours of Okabe, Ito and Tol."""

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

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5f6a76; --line: #dde2e7; --page: #ffffff; --card: #f6f8fa;
  --accent: #0072b2; --good: #00805d; --bad: #b94700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #98a3ae; --line: #343b43; --page: #14181c;
  --card: #1c2228; --accent: #56b4e9; --good: #3ecb9e; --bad: #f08a4b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 960px; padding: 28px 18px 60px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
.soft, figcaption, th { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { font-weight: 600; text-align: left; white-space: nowrap; font-size: .82rem; }
th, td { padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
th.n, td.n { text-align: right; white-space: nowrap; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(270px, 100%), 1fr)); }
.texts { grid-template-columns: repeat(auto-fill, minmax(min(200px, 100%), 1fr)); }
figure { margin: 0; padding: 10px 10px 4px; background: var(--card); border-radius: 8px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 .6rem; font-size: .85rem; }
figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
svg .tick { stroke: var(--line); }
svg polyline { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
svg circle { fill: var(--accent); }
.row { display: grid; grid-template-columns: minmax(120px, 260px) 1fr; gap: 14px; align-items: center; margin: 9px 0;
  font-size: .9rem; line-height: 1.35; overflow-wrap: anywhere; }
@media (max-width: 600px) { .row { grid-template-columns: 1fr; gap: 0; } }
.track { position: relative; height: 22px; }
.track i { position: absolute; top: 0; bottom: 0; }
.track .zero { width: 1px; background: var(--soft); opacity: .6; }
.track .span { top: 10px; bottom: 10px; background: currentColor; min-width: 2px; }
.track .dot { width: 10px; height: 10px; margin: 6px 0 0 -5px; border-radius: 50%; background: currentColor;
  bottom: auto; }
.axis { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft); }
.better { color: var(--good); } .worse { color: var(--bad); }
.stack { display: flex; height: 22px; border-radius: 4px; overflow: hidden; background: var(--card); }
.stack i { height: 100%; border-right: 1px solid var(--page); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: .85rem; color: var(--soft); margin: .4rem 0; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.prompt, .answer { white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { margin: 1.4rem 0 .5rem; padding-left: 10px; border-left: 3px solid var(--accent); }
.answer { background: var(--card); border-radius: 8px; padding: 8px 10px; font-size: .92rem; }
.answer .soft { display: block; font-size: .8rem; }
pre { overflow-x: auto; background: var(--card); border-radius: 8px; padding: 12px; font-size: .8rem;
  line-height: 1.4; }
summary { cursor: pointer; }
"""


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
