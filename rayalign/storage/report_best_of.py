"""The table of a report that has best-of-n beside its bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayalign.statistics.best_of_n import exceeds
from rayalign.statistics.intervals import Interval
from rayalign.storage.report_plots import number
from rayalign.storage.report_table import Cell, figure, html_table

Row = Mapping[str, Any]
Cells = list[str | Cell]
KL, KL_BOUND = "best_of_n_kl_estimate", "best_of_n_kl"
BY_CONSTRUCTION = (
    "The KL is estimated from the scores of the answers that were drawn. Such an estimate cannot exceed its bound, and "
    "it does not depend on scores that all differ. Only a win rate can show that a run breaks its bound."
)
_RATE_BOUND = re.compile(r"win_rate_bound_against_(?P<reference>.+)")


def best_of_table(results: Sequence[Row]) -> str:
    """Each figure of best-of-n, the most that it can be, and whether a measured one's interval lies above."""
    kl_rows = _kl_rows(results)
    rows = [*kl_rows, *_rate_rows(results)]
    if not rows:
        return ""
    heading: list[str | Cell] = ["model", "figure", figure("measured"), figure("at most"), "verdict"]
    note = f'<p class="soft">{BY_CONSTRUCTION}</p>' if kl_rows else ""
    return f"<h2>Best-of-n and its bounds</h2>{html_table(heading, rows)}{note}"


def _kl_rows(results: Sequence[Row]) -> list[Cells]:
    bounds = {row["name"]: row["mean"] for row in results if row["metric"] == KL_BOUND}
    rows = [row for row in results if row["metric"] == KL and row["name"] in bounds]
    return [_cells(row, "KL to the reference [nats]", bounds[row["name"]], "by construction") for row in rows]


def _rate_rows(results: Sequence[Row]) -> list[Cells]:
    cells = []
    for row, bound in bounded_rates(results):
        verdict = "within" if is_within(row, bound) else "above its bound"
        cells.append(_cells(row, f"{row['metric']} [%]", bound, verdict))
    return cells


def bounded_rates(results: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """Each win rate of a best-of-n model against its reference, with its bound [%]."""
    for bound in results:
        match = _RATE_BOUND.fullmatch(str(bound["metric"]))
        if match is None:
            continue
        ending = f"_against_{match['reference']}"
        for row in results:
            if row["name"] == bound["name"] and _is_rate(row, ending):
                yield row, bound["mean"]


def is_within(row: Row, bound: float) -> bool:
    """Whether a measured figure's interval does not lie above its bound as a whole."""
    low = math.nan if row["low"] is None else row["low"]
    return not exceeds(Interval(row["mean"], low, math.nan, row["n"]), bound)


def _is_rate(row: Row, ending: str) -> bool:
    metric = str(row["metric"])
    is_measured = metric.startswith("win_rate_") and not metric.startswith("win_rate_bound_")
    return is_measured and metric.endswith(ending)


def _cells(row: Row, name: str, bound: float, verdict: str) -> Cells:
    measured = f"{number(row['mean'])} ({number(row['low'])} to {number(row['high'])})"
    return [row["name"], name, figure(measured), figure(number(bound)), verdict]
