"""The table of a report that has best-of-n beside its bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.statistics.best_of_n import exceeds
from rayalign.statistics.intervals import Interval
from rayalign.storage.report_plots import number

Row = Mapping[str, Any]
KL, KL_BOUND = "best_of_n_kl_estimate", "best_of_n_kl"
_RATE_BOUND = re.compile(r"win_rate_bound_against_(?P<reference>.+)")


def best_of_table(results: Sequence[Row]) -> str:
    """Each measured figure of best-of-n, the most that it can be, and whether its interval lies above."""
    lines = [*_kl_lines(results), *_rate_lines(results)]
    if not lines:
        return ""
    heading = '<th>model</th><th>figure</th><th class="n">measured</th><th class="n">at most</th><th>verdict</th>'
    body = "".join(f"<tr>{line}</tr>" for line in [heading, *lines])
    return f'<h2>Best-of-n and its bounds</h2><div class="scroll"><table>{body}</table></div>'


def _kl_lines(results: Sequence[Row]) -> list[str]:
    bounds = {row["name"]: row["mean"] for row in results if row["metric"] == KL_BOUND}
    rows = [row for row in results if row["metric"] == KL and row["name"] in bounds]
    return [_line(row, "KL to the reference [nats]", bounds[row["name"]]) for row in rows]


def _rate_lines(results: Sequence[Row]) -> list[str]:
    lines = []
    for bound in results:
        match = _RATE_BOUND.fullmatch(str(bound["metric"]))
        if match:
            ending = f"_against_{match['reference']}"
            own = [row for row in results if row["name"] == bound["name"] and _is_rate(row, ending)]
            lines += [_line(row, f"{row['metric']} [%]", bound["mean"]) for row in own]
    return lines


def _is_rate(row: Row, ending: str) -> bool:
    metric = str(row["metric"])
    is_measured = metric.startswith("win_rate_") and not metric.startswith("win_rate_bound_")
    return is_measured and metric.endswith(ending)


def _line(row: Row, figure: str, bound: float) -> str:
    measured = f"{number(row['mean'])} ({number(row['low'])} to {number(row['high'])})"
    low = math.nan if row["low"] is None else row["low"]
    verdict = "above its bound" if exceeds(Interval(row["mean"], low, math.nan, row["n"]), bound) else "within"
    cells = f'<td class="n">{measured}</td><td class="n">{number(bound)}</td><td>{verdict}</td>'
    return f"<td>{escape(row['name'])}</td><td>{escape(figure)}</td>{cells}"
