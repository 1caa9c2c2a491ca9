"""The main table of a study: each model's win rate against one baseline, a column for each judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.storage.report_plots import number
from rayalign.storage.report_profiles import is_of_profile
from rayalign.storage.report_table import Cell, figure, html_table

RANKS = "judges"
"""name of the rows that correlate judges"""
_BY_JUDGE = re.compile(r"win_rate_by_(?P<judge>.+)_against_(?P<rival>.+)")
Row = Mapping[str, Any]


def judges_table(results: Sequence[Row]) -> str:
    """A table for each baseline that at least two judges compared the models with, best model first."""
    rivals: dict[str, dict[str, dict[str, Row]]] = {}
    for row in results:
        match = _BY_JUDGE.fullmatch(str(row["metric"]))
        if match and not is_of_profile(row):
            rivals.setdefault(match["rival"], {}).setdefault(match["judge"], {})[row["name"]] = row
    correlations = [row for row in results if row["name"] == RANKS]
    parts = []
    for rival, judges in rivals.items():
        if len(judges) > 1:
            parts.append(_table(rival, judges))
            own = [row for row in correlations if str(row["metric"]).endswith(f"_against_{rival}")]
            parts.extend(_sentence(row) for row in own)
    return f"<h2>Win rates by judge</h2>{''.join(parts)}" if parts else ""


def _table(rival: str, judges: Mapping[str, Mapping[str, Row]]) -> str:
    first = next(iter(judges.values()))
    models = sorted(first, key=lambda name: -float(first[name]["mean"]))
    lines: list[list[str | Cell]] = []
    for model in models:
        lines.append([model, *(_cell(rows.get(model)) for rows in judges.values())])
    return html_table([f"against {rival} [%]", *map(figure, judges)], lines)


def _cell(row: Row | None) -> Cell:
    if row is None:
        return figure(number(None))
    return figure(f"{number(row['mean'])} ({number(row['low'])} to {number(row['high'])})")


def _sentence(row: Row) -> str:
    pair = str(row["metric"]).removeprefix("rank_correlation_of_").partition("_against_")[0]
    names = escape(pair.replace("_and_", " and "))
    return f'<p class="soft">Rank correlation of {names} over {row["n"]} models: {number(row["mean"])}</p>'
