"""A page that shows figures of models by category, with their intervals; it needs no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rayalign.statistics.intervals import Interval
from rayalign.storage.report_page import write_page
from rayalign.storage.report_plots import PALETTE, number

Series = Mapping[str, Mapping[str, Interval]]
"""model -> category -> figure"""
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 120, 16, 6, 24
_STEP, _GAP = 12, 12
"""height of a model's line, and the gap between two categories"""


def category_plot(title: str, series: Series, *, least: float, most: float) -> str:
    """A dot with its 95% interval for each model and category, on one scale from `least` to `most`."""
    categories: dict[str, None] = {}
    for figures in series.values():
        categories.update(dict.fromkeys(figures))
    band = _STEP * len(series) + _GAP
    height = _TOP + band * len(categories) + _BOTTOM
    scale = _Scale(least, most)
    drawing = scale.axis(height - _BOTTOM)
    for row, category in enumerate(categories):
        top = _TOP + row * band
        label = f'<text x="{_LEFT - 8}" y="{top + band / 2 + 4:.1f}" text-anchor="end">{escape(category)}</text>'
        drawing += label
        for line, figures in enumerate(series.values()):
            if category in figures:
                y = top + _GAP / 2 + _STEP * (line + 0.5)
                drawing += scale.mark(figures[category], y, _colour(line))
    caption = f"<figcaption><b>{escape(title)}</b><span>95% intervals by question</span></figcaption>"
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{drawing}</svg>'
    return f"<figure>{caption}{svg}</figure>{_legend(list(series))}"


def write_category_page(path: Path, title: str, facts: str, plots: Sequence[str]) -> None:
    """Write the page with its plots, one under the other."""
    heading = f'<h1>{escape(title)}</h1><p class="soft">{escape(facts)}</p>'
    write_page(path, title, [heading, *plots])


class _Scale:
    """Places on the horizontal axis."""

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def place(self, value: float) -> float:
        share = (value - self._least) / (self._most - self._least)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def axis(self, bottom: float) -> str:
        lines = ""
        for part in range(5):
            tick = self._least + part * (self._most - self._least) / 4
            x = self.place(tick)
            lines += f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>'
            lines += f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{number(tick)}</text>'
        return lines

    def mark(self, figure: Interval, y: float, colour: str) -> str:
        line = ""
        if not math.isnan(figure.low):
            ends = f'x1="{self.place(figure.low):.1f}" x2="{self.place(figure.high):.1f}"'
            line = f'<line {ends} y1="{y:.1f}" y2="{y:.1f}" style="stroke:{colour};stroke-width:2"/>'
        return f'{line}<circle cx="{self.place(figure.mean):.1f}" cy="{y:.1f}" r="3.6" style="fill:{colour}"/>'


def _legend(names: Sequence[str]) -> str:
    entries = ""
    for line, name in enumerate(names):
        entries += f'<span><i style="background:{_colour(line)}"></i>{escape(name)}</span>'
    return f'<div class="legend">{entries}</div>'


def _colour(line: int) -> str:
    return PALETTE[line % len(PALETTE)]
