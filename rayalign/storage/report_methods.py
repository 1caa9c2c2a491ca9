"""The table of a study's methods: figures of each model, what it learnt from, and what its training took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rayalign.statistics.ranks import rank_correlation
from rayalign.storage.report_plots import number
from rayalign.storage.report_table import Cell, figure, html_table

_LEARNT = {
    "samples_mean": "samples: mean",
    "samples_deviation": "deviation",
    "samples_maximum": "maximum",
    "models": "models in memory",
    "drawing": "drawing [s]",
    "training": "training [s]",
}
_NOTE = (
    "Samples: rewards of the candidates that a method learnt from; over prompts the mean of their mean, deviation and "
    "maximum. Models in memory: during training, beside the engines. Drawing: the stage that wrote and scored the "
    "candidates; methods that draw while they train have it in their training."
)
_FEWEST = 3
"""methods for which a correlation says anything"""
Row = Mapping[str, Any]


def method_columns(methods: Sequence[Row]) -> dict[str, str]:
    """Key and heading of each column that has a value; none where no model was trained in the job."""
    keys: dict[str, None] = {}
    for row in methods:
        keys |= dict.fromkeys(key for key in row if row[key] is not None)
    if not keys.keys() & _LEARNT.keys():
        return {}
    metrics = [key for key in keys if key != "name" and key not in _LEARNT]
    metrics.sort(key=lambda key: key != "perplexity")
    return {key: key.replace("_", " ") for key in metrics} | {k: v for k, v in _LEARNT.items() if k in keys}


def method_cells(row: Row, columns: Mapping[str, str]) -> list[str]:
    """The name and the figures of one method, in the order of the columns."""
    return [str(row["name"]), *(number(row.get(key)) for key in columns)]


def methods_table(methods: Sequence[Row]) -> str:
    """The section of the report; empty where no model was trained in the job."""
    columns = method_columns(methods)
    if not columns:
        return ""
    lines: list[list[str | Cell]] = []
    for row in methods:
        name, *figures = method_cells(row, columns)
        lines.append([name, *map(figure, figures)])
    table = html_table(["method", *map(figure, columns.values())], lines)
    law = "".join(f'<p class="soft">{escape(sentence)}</p>' for sentence in _laws(methods))
    return f'<h2>Methods</h2>{table}<p class="soft">{_NOTE}</p>{law}'


def _laws(methods: Sequence[Row]) -> list[str]:
    """Whether a model's reward follows the best of its samples, as it does in RRHF's study."""
    both = [row for row in methods if row.get("reward") is not None and row.get("samples_maximum") is not None]
    if len(both) < _FEWEST:
        return []
    correlation = rank_correlation([row["samples_maximum"] for row in both], [row["reward"] for row in both])
    return [f"Rank correlation of the samples' maximum and the reward over {len(both)} methods: {number(correlation)}"]
