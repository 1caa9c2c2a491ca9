"""Plots of the pages of studies and benchmarks as SVG files, in the colour-blind safe colours of Okabe and Ito."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

Row = Mapping[str, Any]
TONES = {"better": "#009e73", "worse": "#d55e00", "open": "#7f7f7f"}
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE = "<style>text{font:13px sans-serif;fill:#444}</style>"


class Series(NamedTuple):
    """One line of a chart."""

    name: str
    points: list[tuple[float, float]]
    bounds: Sequence[tuple[float, float]] = ()
    """low and high of each point; empty: they are not drawn"""


class Bar(NamedTuple):
    """One bar of a chart: its parts one after the other."""

    name: str
    parts: Sequence[float]


def forest(rows: Sequence[Row], key: str, title: str) -> str:
    """The differences `key` of the rows that have it: interval, mean, and a small dot for each seed."""
    width, left, line, margin = 640, 150, 22, 24
    present = [row for row in rows if key in row]
    least = min(0.0, *(row[key]["low"] for row in present))
    most = max(0.0, *(row[key]["high"] for row in present))
    scale = (width - left - margin) / (most - least)

    def place(value: float) -> float:
        return left + (value - least) * scale

    height = 2 * margin + line * (len(present) + 1)
    marks = [f'<text x="{left}" y="16">{escape(title)}</text>']
    marks.append(f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="{margin}" y2="{height - margin}" stroke="#999"/>')
    for number, row in enumerate(present, start=1):
        y = margin + line * number
        marks.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(row["model"])}</text>')
        marks += _interval(row[key], y, place)
    for value in (least, 0.0, most):
        marks.append(f'<text x="{place(value):.1f}" y="{height - 6}" text-anchor="middle">{value:.2f}</text>')
    return _svg(width, height, marks)


def lines(charts: Sequence[tuple[str, Sequence[Series]]], x_label: str) -> str:
    """Charts of several lines each, two in a row, with one legend: the charts have the same series."""
    width, height, margin = 360, 240, 44
    marks = []
    for number, (title, series) in enumerate(charts):
        x0, y0 = (number % 2) * width, (number // 2) * height
        marks.append(f'<g transform="translate({x0},{y0})">')
        marks += _chart(title, series, x_label, width, height, margin)
        marks.append("</g>")
    bottom = (len(charts) + 1) // 2 * height
    for number, one in enumerate(charts[0][1]):
        x, colour = margin + 150 * number, PALETTE[number % len(PALETTE)]
        marks.append(f'<circle cx="{x}" cy="{bottom + 12}" r="5" fill="{colour}"/>')
        marks.append(f'<text x="{x + 10}" y="{bottom + 16}">{escape(one.name)}</text>')
    return _svg(2 * width, bottom + 30, marks)


def bars(title: str, parts: Sequence[str], rows: Sequence[Bar], mark: float | None = None) -> str:
    """Horizontal bars of several parts each, with their sum; a line at `mark`."""
    width, left, line, margin = 640, 150, 26, 30
    sums = [sum(row.parts) for row in rows]
    scale = (width - left - 2 * margin) / max(*sums, mark or 0.0)
    height = margin + line * (len(rows) + 1)
    marks = [f'<text x="{left}" y="18">{escape(title)}</text>']
    for number, row in enumerate(rows):
        y, x = margin + line * number, float(left)
        marks.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(row.name)}</text>')
        for part, value in enumerate(row.parts):
            span = value * scale
            marks.append(f'<rect x="{x:.1f}" y="{y}" width="{span:.1f}" height="18" fill="{PALETTE[part]}"/>')
            x += span
        marks.append(f'<text x="{x + 6:.1f}" y="{y + 14}">{sums[number]:.2f}</text>')
    if mark is not None:
        x = left + mark * scale
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{margin - 4}" y2="{height - line}" stroke="#444"/>')
    if len(parts) > 1:
        for number, name in enumerate(parts):
            x = left + 90 * number
            marks.append(f'<circle cx="{x}" cy="{height - 14}" r="5" fill="{PALETTE[number]}"/>')
            marks.append(f'<text x="{x + 10}" y="{height - 10}">{escape(name)}</text>')
    return _svg(width, height, marks)


def _chart(title: str, series: Sequence[Series], x_label: str, width: int, height: int, margin: int) -> list[str]:
    points = [point for one in series for point in one.points]
    heights = [y for _, y in points]
    for one in series:
        for bounds in one.bounds:
            heights += bounds
    x_most = max(x for x, _ in points)
    y_least, y_most = min(0.0, *heights), max(0.0, *heights)

    def place(x: float, y: float) -> tuple[float, float]:
        right = margin + x / x_most * (width - margin - 12)
        down = height - margin + 10 - (y - y_least) / (y_most - y_least) * (height - 2 * margin + 10)
        return right, down

    marks = [f'<text x="{margin}" y="20">{escape(title)}</text>']
    for y in (y_least, 0.0, y_most):
        x, down = place(0.0, y)
        marks.append(f'<line x1="{x:.0f}" x2="{width - 12}" y1="{down:.1f}" y2="{down:.1f}" stroke="#ddd"/>')
        marks.append(f'<text x="{margin - 4}" y="{down + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    marks.append(f'<text x="{width - 12}" y="{height - 16}" text-anchor="end">{escape(x_label)} {x_most:.2f}</text>')
    for number, one in enumerate(series):
        colour = PALETTE[number % len(PALETTE)]
        for (x, _), (low, high) in zip(one.points, one.bounds, strict=bool(one.bounds)):
            (across, bottom), (_, top) = place(x, low), place(x, high)
            ends = f'x1="{across:.1f}" x2="{across:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"'
            marks.append(f'<line {ends} stroke="{colour}" stroke-opacity="0.5"/>')
        places = [place(x, y) for x, y in sorted(one.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        marks += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    return marks


def _interval(difference: Row, y: float, place: Callable[[float], float]) -> list[str]:
    tone = "open"
    if difference["shown"]:
        tone = "better" if difference["mean"] > 0 else "worse"
    colour = TONES[tone]
    low, high, mean = place(difference["low"]), place(difference["high"]), place(difference["mean"])
    marks = [
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>',
        f'<circle cx="{mean:.1f}" cy="{y}" r="4.5" fill="{colour}"/>',
    ]
    for value in difference["seeds"].values():
        marks.append(f'<circle cx="{place(value):.1f}" cy="{y + 7}" r="1.8" fill="#444"/>')
    return marks


def _svg(width: int, height: int, marks: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    drawing = "\n".join([_STYLE, '<rect width="100%" height="100%" fill="#fff"/>', *marks])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{drawing}\n</svg>\n'
