"""The heat maps of an evaluation under profiles of preferences: methods by profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.storage.report_plots import number
from rayalign.storage.report_table import Cell, figure, html_table

AVERAGE = "win_rate_average"
"""metric: the mean win rate over all other models"""
_AT = "@"
Row = Mapping[str, Any]


def at_profile(metric: str, profile: str) -> str:
    """The name of a metric under one profile."""
    return f"{metric}{_AT}{profile}"


def is_of_profile(row: Row) -> bool:
    """Whether a row of results belongs to one profile."""
    return _AT in str(row["metric"])


def profiles_section(results: Sequence[Row]) -> str:
    """A heat map for each metric that was measured under profiles; the last column is their mean."""
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in results:
        metric, at, profile = str(row["metric"]).partition(_AT)
        if at:
            tables.setdefault(metric, {}).setdefault(row["name"], {})[profile] = row
    means = {(row["name"], row["metric"]): row for row in results if not is_of_profile(row)}
    parts = [_heat_map(metric, methods, means) for metric, methods in tables.items()]
    return f"<h2>Methods by profiles</h2>{''.join(parts)}" if parts else ""


def _heat_map(metric: str, methods: Mapping[str, Mapping[str, Row]], means: Mapping[tuple[str, str], Row]) -> str:
    profiles = list(next(iter(methods.values())))
    values: list[float] = []
    for rows in methods.values():
        values += [float(row["mean"]) for row in rows.values()]
    low, high = min(values), max(values)
    lines: list[list[str | Cell]] = []
    for name, rows in methods.items():
        cells = [_cell(rows.get(profile), low, high) for profile in profiles]
        lines.append([name, *cells, _cell(means.get((name, metric)), low, high)])
    heading: list[str | Cell] = [metric, *map(figure, [*profiles, "all"])]
    return f"<h3>{escape(metric)}</h3>{html_table(heading, lines)}"


def _cell(row: Row | None, low: float, high: float) -> Cell:
    """The mean, the stronger coloured the higher, with its interval where the pointer rests."""
    if row is None or row["mean"] is None:
        return figure(number(None))
    share = (float(row["mean"]) - low) / (high - low or 1.0)
    colour = f"background:color-mix(in srgb, var(--accent) {55 * min(max(share, 0.0), 1.0):.0f}%, transparent)"
    interval = f"{number(row['low'])} to {number(row['high'])}, {number(row['n'])} prompts"
    return Cell(number(row["mean"]), figure=True, style=colour, title=interval)
