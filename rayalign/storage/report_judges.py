"""The main table of a study: each model's win rate against one baseline, a column for each judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.statistics.doubts import short_notes
from rayalign.storage.report_plots import number
from rayalign.storage.report_profiles import has_heat_map
from rayalign.storage.report_table import Cell, estimate, figure, html_table, missing_notes

RANKS = "judges"
"""name of the rows that correlate judges"""
_BY_JUDGE = re.compile(r"win_rate_by_(?P<judge>.+)_against_(?P<rival>.+)")
Row = Mapping[str, Any]


def win_rate_metric(judge: str, rival: str) -> str:
    """The name of a win rate, which says who judged and against whom."""
    return f"win_rate_by_{judge}_against_{rival}"


def judges_table(results: Sequence[Row]) -> str:
    """A table for each baseline that at least two judges compared the models with, best model first."""
    correlations = [row for row in results if row["name"] == RANKS]
    notes = short_notes(results)
    parts = []
    for rival, judges in _rivals(results).items():
        parts.append(_table(rival, judges, notes))
        own = [row for row in correlations if str(row["metric"]).endswith(f"_against_{rival}")]
        parts.extend(_sentence(row) for row in own)
    return f"<h2>Win rates by judge</h2>{''.join(parts)}" if parts else ""


def shown_metrics(results: Sequence[Row]) -> set[str]:
    """The metrics that the tables by judge show."""
    shown = {str(row["metric"]) for row in results if row["name"] == RANKS}
    for rival, judges in _rivals(results).items():
        shown |= {win_rate_metric(judge, rival) for judge in judges}
    return shown


def _rivals(results: Sequence[Row]) -> dict[str, dict[str, dict[str, Row]]]:
    """Baseline -> judge -> model -> win rate, where at least two judges compared."""
    rivals: dict[str, dict[str, dict[str, Row]]] = {}
    for row in results:
        match = _BY_JUDGE.fullmatch(str(row["metric"]))
        if match and not has_heat_map(row):
            rivals.setdefault(match["rival"], {}).setdefault(match["judge"], {})[row["name"]] = row
    return {rival: judges for rival, judges in rivals.items() if len(judges) > 1}


def _table(rival: str, judges: Mapping[str, Mapping[str, Row]], notes: Mapping[str, str]) -> str:
    first = next(iter(judges.values()))
    models = sorted(first, key=lambda name: -float(first[name]["mean"]))
    lines: list[list[str | Cell]] = []
    for model in models:
        cells = [_cell(rows.get(model)) for rows in judges.values()]
        lines.append([Cell(model, note=notes.get(model, "")), *cells])
    table = html_table([f"against {rival} [%], higher is better", *map(figure, judges)], lines)
    return table + "".join(_missing(judge, rows) for judge, rows in judges.items())


def _missing(judge: str, rows: Mapping[str, Row]) -> str:
    """Why this judge's win rates rest on fewer prompts."""
    return missing_notes([{**row, "name": f"{name} by {judge}"} for name, row in rows.items()])


def _cell(row: Row | None) -> Cell:
    """A win rate with its interval; why it rests on fewer prompts where the pointer rests."""
    if row is None:
        return figure(number(None))
    reason = f"; {row['note']}" if row.get("note") else ""
    return estimate(row, f"{number(row['n'])} prompts{reason}")


def _sentence(row: Row) -> str:
    pair = str(row["metric"]).removeprefix("rank_correlation_of_").partition("_against_")[0]
    names = escape(pair.replace("_and_", " and "))
    return f'<p class="soft">Rank correlation of {names} over {row["n"]} models: {number(row["mean"])}</p>'
