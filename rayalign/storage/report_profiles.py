"""The heat maps of an evaluation under profiles of preferences: methods by profiles, and methods by criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.storage.report_plots import number
from rayalign.storage.report_table import Cell, figure, html_table

AVERAGE = "win_rate_average"
"""metric: the mean win rate over all other models"""
CRITERION = "criterion"
"""key of a row: the single criterion that its win rate is by"""
_AT = "@"
Row = Mapping[str, Any]


def at_profile(metric: str, profile: str) -> str:
    """The name of a metric under one profile."""
    return f"{metric}{_AT}{profile}"


def criterion_metric(judge: str, criterion: str, rival: str) -> str:
    """The name of a win rate by one criterion."""
    return f"win_rate_by_{judge}_on_{criterion}_against_{rival}"


def has_heat_map(row: Row) -> bool:
    """Whether a heat map shows a row of results, since it belongs to one profile or to one criterion."""
    return _AT in str(row["metric"]) or CRITERION in row


def profiles_section(results: Sequence[Row]) -> str:
    """A heat map for each metric that was measured under profiles; the last column is their mean."""
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in results:
        metric, at, profile = str(row["metric"]).partition(_AT)
        if at:
            tables.setdefault(metric, {}).setdefault(row["name"], {})[profile] = row
    return _section("Methods by profiles", tables, _overall(results), "all")


def criteria_section(results: Sequence[Row]) -> str:
    """A heat map for each judge and rival; the last column is the win rate by all that a profile wants."""
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in results:
        if CRITERION in row:
            criterion = row[CRITERION]
            metric = str(row["metric"]).replace(f"_on_{criterion}_against_", "_against_")
            tables.setdefault(metric, {}).setdefault(row["name"], {})[criterion] = row
    return _section("Methods by criteria", tables, _overall(results), "whole profile")


def _overall(results: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """The rows over all profiles and criteria, by name and metric."""
    return {(row["name"], row["metric"]): row for row in results if not has_heat_map(row)}


def _section(
    title: str,
    tables: Mapping[str, Mapping[str, Mapping[str, Row]]],
    overall: Mapping[tuple[str, str], Row],
    last: str,
) -> str:
    """A heat map of each metric; nothing without any."""
    parts = [_heat_map(metric, methods, overall, last) for metric, methods in tables.items()]
    return f"<h2>{title}</h2>{''.join(parts)}" if parts else ""


def _heat_map(
    metric: str, methods: Mapping[str, Mapping[str, Row]], overall: Mapping[tuple[str, str], Row], last: str
) -> str:
    columns: dict[str, None] = {}
    values: list[float] = []
    for rows in methods.values():
        columns |= dict.fromkeys(rows)
        values += [float(row["mean"]) for row in rows.values()]
    low, high = min(values), max(values)
    lines: list[list[str | Cell]] = []
    for name, rows in methods.items():
        cells = [_cell(rows.get(column), low, high) for column in columns]
        lines.append([name, *cells, _cell(overall.get((name, metric)), low, high)])
    heading: list[str | Cell] = [metric, *map(figure, [*columns, last])]
    return f"<h3>{escape(metric)}</h3>{html_table(heading, lines)}"


def _cell(row: Row | None, low: float, high: float) -> Cell:
    """The mean, the stronger coloured the higher, with its interval where the pointer rests."""
    if row is None or row["mean"] is None:
        return figure(number(None))
    share = (float(row["mean"]) - low) / (high - low or 1.0)
    colour = f"background:color-mix(in srgb, var(--accent) {55 * min(max(share, 0.0), 1.0):.0f}%, transparent)"
    interval = f"{number(row['low'])} to {number(row['high'])}, {number(row['n'])} prompts"
    return Cell(number(row["mean"]), figure=True, style=colour, title=interval)
