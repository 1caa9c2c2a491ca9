"""The report's figures as HTML and inline SVG, in the colour-blind safe colours of Okabe, Ito and Tol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rayalign.storage.report_metrics import metric_of

PALETTE = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f7f7f"),
    *("#5e3c99", "#882255", "#44aa99"),
)
DASHES = ("none", "5 3", "2 2")
Point = tuple[float, float]
Series = Mapping[str, Sequence[Point]]
"""the points of each curve, by its name"""
Range = tuple[float, float, float]
"""a step, and the lowest and the highest value there"""
Ranges = Mapping[str, Sequence[Range]]
"""the ranges around each curve, by its name"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 46, 10, 8, 22
MOST_POINTS = 240
MOST_BANDS = 40
"""strips of a chart in which values are shown"""


def number(value: float | None) -> str:
    """A number for people, to about three digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:{_number_format(value)}}".rstrip(".").replace("-", "−")


def _number_format(value: float) -> str:
    size = abs(value)
    if size >= 1000 or float(value).is_integer():
        return ",.0f"
    if size >= 1:
        return "#.3g"
    return ".3f" if size >= 1e-3 else ".2g"


def _short(value: float) -> str:
    """A round number without its last zeros, short enough to stand beside an axis."""
    size = abs(value)
    if size >= 1e6:
        text = f"{value / 1e6:.4g}M"
    elif size >= 1e5:
        text = f"{value / 1e3:.4g}k"
    else:
        text = number(value) if size >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def styles(names: Sequence[str]) -> dict[str, str]:
    """A line of its own for each name: the colours in turn, then the same colours with dashes."""
    lines: dict[str, str] = {}
    for place, name in enumerate(names):
        turn, colour = divmod(place, len(PALETTE))
        dashes = f";stroke-dasharray:{DASHES[turn % len(DASHES)]}" if turn else ""
        lines[name] = f"color:{PALETTE[colour]}{dashes}"
    return lines


def legend(lines: Mapping[str, str]) -> str:
    """The names beside their lines."""
    entries = ""
    for name, style in lines.items():
        line = f'<svg class="key" viewBox="0 0 22 8" style="{style}"><polyline points="0,4 22,4"/></svg>'
        entries += f"<span>{line}{escape(name)}</span>"
    return f'<div class="legend">{entries}</div>'


def chart(name: str, series: Series, lines: Mapping[str, str], over: str = "step", ranges: Ranges | None = None) -> str:
    """One metric of several stages over the steps; over another quantity, a dot for each point.

    Where the pointer rests, the values there are shown. The caption has unit and direction, and of a single curve its
    first and last value.

    Args:
        ranges: drawn as an area behind the curve of the same name.
    """
    is_curve = over == "step"
    areas = {own: _thinned_ranges(rows) for own, rows in (ranges or {}).items() if own in series}
    thinned = {own: _thinned(points if is_curve else sorted(points)) for own, points in series.items()}
    all_points: list[Point] = []
    for points in thinned.values():
        all_points += points
    for rows in areas.values():
        all_points += _edge(rows)
    axes = _axes(all_points)
    marks = ""
    for own, rows in areas.items():
        marks += f'<g style="{lines[own]}">{_area(axes, rows)}</g>'
    for own, points in thinned.items():
        places = [axes.place(x, y) for x, y in points]
        marks += f'<g style="{lines[own]}">{_line(places) if is_curve else _dots(places)}</g>'
    marks += _bands(axes, thinned, areas) if is_curve else ""
    drawing = axes.tick_lines() + axes.x_labels(over) + marks
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">{drawing}</svg>'
    return f"<figure>{_caption(name, series, is_curve)}{svg}</figure>"


def _caption(name: str, series: Series, is_curve: bool) -> str:
    remark = metric_of(name).remark
    change = ""
    if len(series) == 1 and is_curve:
        [points] = series.values()
        change = f"<span>{number(points[0][1])} → {number(points[-1][1])}</span>"
    soft = f'<span class="remark">{escape(remark)}</span>' if remark else ""
    return f"<figcaption><b>{escape(name)}</b>{soft}{change}</figcaption>"


def _edge(rows: Sequence[Range]) -> list[Point]:
    """The outline of an area: the lowest values from left to right, then the highest ones back."""
    lowest = [(x, low) for x, low, _ in rows]
    highest = [(x, high) for x, _, high in rows]
    return lowest + highest[::-1]


def _area(axes: _Axes, rows: Sequence[Range]) -> str:
    corners = [axes.place(x, y) for x, y in _edge(rows)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polygon points="{path}"/>'


def _line(places: Sequence[Point]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}"/>{_dots(places[-1:])}'


def _bands(axes: _Axes, series: Series, areas: Ranges) -> str:
    """Strips over the whole height, each with the values of all curves at its steps."""
    steps: set[float] = set()
    for points in series.values():
        steps |= {x for x, _ in points}
    ordered = sorted(steps)
    size = math.ceil(len(ordered) / MOST_BANDS)
    strips = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    left, bands = float(LEFT), ""
    for place, strip in enumerate(strips):
        is_last = place + 1 == len(strips)
        following = axes.x1 if is_last else strips[place + 1][0]
        right, _ = axes.place((strip[-1] + following) / 2, axes.y0)
        values = _values_at(series, areas, strip)
        title = escape("\n".join([f"step {number(strip[-1])}", *values]))
        shape = f'x="{left:.1f}" y="{TOP}" width="{max(right - left, 0.5):.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        bands += f'<rect class="band" {shape}><title>{title}</title></rect>'
        left = right
    return bands


def _values_at(series: Series, areas: Ranges, steps: Sequence[float]) -> list[str]:
    """The last value of each curve within the steps, with its range."""
    first, last = steps[0], steps[-1]
    values = []
    for name, points in series.items():
        own = [y for x, y in points if first <= x <= last]
        around = [(low, high) for x, low, high in areas.get(name, ()) if first <= x <= last]
        if own and around:
            low, high = around[-1]
            values.append(f"{name}: {number(own[-1])} ({number(low)} to {number(high)})")
        elif own:
            values.append(f"{name}: {number(own[-1])}")
    return values


@dataclass(frozen=True, slots=True)
class _Axes:
    """The range of a chart, and the place of each point in its SVG."""

    x0: float
    x1: float
    y0: float
    y1: float
    ticks: Sequence[float]

    def place(self, x: float, y: float) -> Point:
        share_x = (x - self.x0) / ((self.x1 - self.x0) or 1.0)
        share_y = (y - self.y0) / (self.y1 - self.y0)
        right = share_x * (WIDTH - LEFT - RIGHT)
        up = share_y * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, HEIGHT - BOTTOM - up

    def tick_lines(self) -> str:
        lines = ""
        for tick in self.ticks:
            _, y = self.place(self.x0, tick)
            lines += f'<line class="tick" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            lines += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        return lines

    def x_labels(self, over: str) -> str:
        first = f'<text x="{LEFT}" y="{HEIGHT - 5}">{number(self.x0)}</text>' if self.x1 > self.x0 else ""
        last = f"{escape(over)} {number(self.x1)}"
        return f'{first}<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{last}</text>'


def _axes(points: Sequence[Point]) -> _Axes:
    steps, values = [x for x, _ in points], [y for _, y in points]
    ticks = _ticks(values)
    lowest, highest = min(ticks[0], *values), max(ticks[-1], *values)
    return _Axes(min(steps), max(steps), lowest, highest, ticks)


def _dots(places: Sequence[Point]) -> str:
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>' for x, y in places)


def forest(rows: Sequence[Mapping[str, Any]], *, better: str = "higher") -> str:
    """Differences with their intervals around zero; rows {label, mean, low, high}, a bound None where unknown.

    Args:
        better: `higher` or `lower`, which decides the colours.
    """
    sizes: list[float] = []
    for row in rows:
        values = row["mean"], row["low"], row["high"]
        sizes += [abs(value) for value in values if value is not None]
    reach = 1.1 * max(sizes, default=1.0) or 1.0
    axis = f"<span>{_short(-reach)}</span><span>0</span><span>{_short(reach)}</span>"
    lines = "".join(_interval(row, reach, better) for row in rows)
    return f'{lines}<div class="row"><span></span><div class="axis">{axis}</div></div>'


def stacked_bar(label: str, parts: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """One bar in which each part [s] has its share, and a legend."""
    total = sum(parts.values())
    pieces, legend = "", ""
    for name, seconds in parts.items():
        colour = f"background:{colours[name]}"
        pieces += f'<i style="width:{100 * seconds / total:.2f}%;{colour}"></i>'
        legend += f'<span><i style="{colour}"></i>{escape(name)} {number(seconds)} s ({seconds / total:.0%})</span>'
    stack = f'<div class="stack">{pieces}</div><div class="legend">{legend}</div>'
    return f"<h3>{escape(label)}: {number(total)} s</h3>{stack}"


def _interval(row: Mapping[str, Any], reach: float, better: str) -> str:
    def at(value: float) -> str:
        return f"{50.0 + 50.0 * value / reach:.2f}%"

    low, high, mean = row["low"], row["high"], row["mean"]
    tone, marks, range_ = "", '<i class="zero" style="left:50%"></i>', ""
    if low is not None and high is not None:
        if low > 0 or high < 0:
            tone = "better" if (low > 0) == (better == "higher") else "worse"
        marks += f'<i class="span" style="left:{at(low)};right:calc(100% - {at(high)})"></i>'
        range_ = f" [{number(low)}, {number(high)}]"
    if mean is not None:
        marks += f'<i class="dot" style="left:{at(mean)}"></i>'
    text = f'{escape(row["label"])}<br><b class="{tone}">{number(mean)}</b><span class="soft">{range_}</span>'
    return f'<div class="row"><span>{text}</span><div class="track {tone}">{marks}</div></div>'


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS, each the mean of its neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    means = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        means.append((chunk[-1][0], sum(y for _, y in chunk) / len(chunk)))
    return means


def _thinned_ranges(rows: Sequence[Range]) -> list[Range]:
    """As `_thinned`, of both bounds."""
    lowest = _thinned([(x, low) for x, low, _ in rows])
    highest = _thinned([(x, high) for x, _, high in rows])
    return [(x, low, high) for (x, low), (_, high) in zip(lowest, highest, strict=True)]


def _ticks(values: Sequence[float]) -> list[float]:
    """Two to five round numbers that span the values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
