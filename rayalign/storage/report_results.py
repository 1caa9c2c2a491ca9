"""The figures of an evaluation, a table for each metric, and the paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.statistics.doubts import short_notes
from rayalign.storage.report_judges import shown_metrics
from rayalign.storage.report_metrics import metric_of
from rayalign.storage.report_plots import forest, number
from rayalign.storage.report_profiles import has_heat_map
from rayalign.storage.report_table import Cell, estimate, figure, html_table, missing_notes

Row = Mapping[str, Any]
FEW = 12
"""rows of a table up to which it is open; of longer ones the first is"""


def results_section(results: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Tables and differences; what judges and profiles have tables of their own for is left to these."""
    elsewhere = shown_metrics(results)
    by_metric: dict[str, list[Row]] = {}
    for row in results:
        if not has_heat_map(row) and row["metric"] not in elsewhere:
            by_metric.setdefault(row["metric"], []).append(row)
    if not by_metric and not comparisons:
        return ""
    notes = short_notes(results)
    tables, long_one_open = "", False
    for metric, rows in by_metric.items():
        is_long = len(rows) > FEW
        tables += _metric_table(metric, rows, notes, is_open=not (is_long and long_one_open))
        long_one_open = long_one_open or is_long
    return f"<h2>Comparison</h2>{tables}{_differences(comparisons)}"


def _metric_table(metric: str, rows: Sequence[Row], notes: Mapping[str, str], *, is_open: bool) -> str:
    heading: list[str | Cell] = ["model", figure("mean, 95 % interval"), figure("n")]
    lines: list[list[str | Cell]] = []
    for row in _best_first(metric, rows):
        name: str | Cell = row["name"]
        if row["name"] in notes:
            name = Cell(row["name"], note=notes[row["name"]])
        lines.append([name, estimate(row), figure(number(row["n"]))])
    state = " open" if is_open else ""
    summary = f"<summary>{metric_heading(metric)}</summary>"
    return f"<details{state}>{summary}{html_table(heading, lines)}{missing_notes(rows)}</details>"


def metric_heading(metric: str) -> str:
    """The name of a metric with its unit and direction."""
    remark = metric_of(metric).remark
    soft = f' <span class="soft">{escape(remark)}</span>' if remark else ""
    return f"<b>{escape(metric)}</b>{soft}"


def _best_first(metric: str, rows: Sequence[Row]) -> list[Row]:
    better = metric_of(metric).better
    if better is None or any(row["mean"] is None for row in rows):
        return list(rows)
    return sorted(rows, key=lambda row: float(row["mean"]), reverse=better == "higher")


def _differences(comparisons: Sequence[Row]) -> str:
    """The paired differences of each metric, each pair of models once."""
    plots = ""
    by_metric: dict[tuple[str, int], dict[frozenset[str], Row]] = {}
    for row in comparisons:
        pairs = by_metric.setdefault((row["metric"], row["n"]), {})
        pairs.setdefault(frozenset((row["a"], row["b"])), row)
    for (metric, n), pairs in by_metric.items():
        labelled = [_labelled(row) for row in pairs.values()]
        better = metric_of(metric).better or "higher"
        remark = f"on the same {number(n)} prompts, with 95 % intervals; {better} is better"
        plots += f"<h3>Differences in {escape(metric)} <span class='soft plain'>{remark}</span></h3>"
        plots += forest(labelled, better=better) + missing_pairs(list(pairs.values()))
    return plots


def _labelled(row: Row) -> Row:
    return {**row, "label": f"{row['a']} − {row['b']}", "mean": row["mean_difference"]}


def missing_pairs(rows: Sequence[Row]) -> str:
    """Why differences rest on fewer prompts."""
    notes = list(dict.fromkeys(row["note"] for row in rows if row.get("note")))
    return f'<p class="soft">{escape("; ".join(notes))}.</p>' if notes else ""
