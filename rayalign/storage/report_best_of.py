"""The table of a report that has best-of-n beside its bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rayalign.statistics.best_of_n import exceeds
from rayalign.statistics.intervals import Interval
from rayalign.storage.report_plots import number
from rayalign.storage.report_table import Cell, figure, html_table

Row = Mapping[str, Any]
Cells = list[str | Cell]
KL, KL_BOUND = "best_of_n_kl_estimate", "best_of_n_kl"
_RATE_BOUND = re.compile(r"win_rate_bound_against_(?P<reference>.+)")


def best_of_table(results: Sequence[Row]) -> str:
    """Each measured figure of best-of-n, the most that it can be, and whether its interval lies above."""
    rows = [*_kl_rows(results), *_rate_rows(results)]
    if not rows:
        return ""
    heading: list[str | Cell] = ["model", "figure", figure("measured"), figure("at most"), "verdict"]
    return f"<h2>Best-of-n and its bounds</h2>{html_table(heading, rows)}"


def _kl_rows(results: Sequence[Row]) -> list[Cells]:
    bounds = {row["name"]: row["mean"] for row in results if row["metric"] == KL_BOUND}
    rows = [row for row in results if row["metric"] == KL and row["name"] in bounds]
    return [_cells(row, "KL to the reference [nats]", bounds[row["name"]]) for row in rows]


def _rate_rows(results: Sequence[Row]) -> list[Cells]:
    rows: list[Cells] = []
    for bound in results:
        match = _RATE_BOUND.fullmatch(str(bound["metric"]))
        if match:
            ending = f"_against_{match['reference']}"
            own = [row for row in results if row["name"] == bound["name"] and _is_rate(row, ending)]
            rows += [_cells(row, f"{row['metric']} [%]", bound["mean"]) for row in own]
    return rows


def _is_rate(row: Row, ending: str) -> bool:
    metric = str(row["metric"])
    is_measured = metric.startswith("win_rate_") and not metric.startswith("win_rate_bound_")
    return is_measured and metric.endswith(ending)


def _cells(row: Row, name: str, bound: float) -> Cells:
    measured = f"{number(row['mean'])} ({number(row['low'])} to {number(row['high'])})"
    low = math.nan if row["low"] is None else row["low"]
    verdict = "above its bound" if exceeds(Interval(row["mean"], low, math.nan, row["n"]), bound) else "within"
    return [row["name"], name, figure(measured), figure(number(bound)), verdict]
