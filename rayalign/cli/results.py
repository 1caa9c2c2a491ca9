"""The figures of a finished run on the console."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from rayalign.cli import show


def show_results(folder: Path) -> None:
    """What speaks against the figures; then methods side by side, each model's figures, paired differences, times."""
    import yaml

    from rayalign.statistics.doubts import ANSWER_METRICS, answer_doubts
    from rayalign.storage.report_methods import method_cells, method_columns
    from rayalign.storage.report_warnings import run_warnings

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    job = yaml.safe_load((folder / "job.yaml").read_text(encoding="utf-8"))
    for warning in run_warnings(job, summary["results"]):
        typer.echo(f"warning: {warning}")
    doubts = answer_doubts(summary["results"])
    figures = []
    for row in summary["results"]:
        if row["metric"] not in ANSWER_METRICS:
            notes = [doubt.short for doubt in doubts.get(row["name"], ())]
            figures.append((row["name"], row["metric"], _interval(row, "mean"), str(row["n"]), ", ".join(notes)))
    differences = []
    for row in summary["comparisons"]:
        interval = _interval(row, "mean_difference")
        differences.append((f"{row['a']} - {row['b']}", row["metric"], interval, str(row["n"])))
    times = []
    for row in summary["stages"]:
        seconds = show.figure(row["fixed_seconds"]), show.figure(row["seconds"])
        times.append((row["name"], row["status"], *seconds))
    methods = summary.get("methods", [])
    columns = method_columns(methods)
    if columns:
        show.table(("method", *columns.values()), [method_cells(row, columns) for row in methods])
    _table_of(("model", "metric", "mean and 95% interval", "n", ""), figures)
    _table_of(("paired difference", "metric", "mean and 95% interval", "n"), differences)
    _table_of(("stage", "status", "fixed s", "total s"), times)
    peak = summary["peak_memory_bytes"]
    if peak is not None:
        typer.echo(f"peak memory of all processes: {peak / 2**30:.2f} GiB")


def _table_of(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        show.table(headings, rows, words=2)


def _interval(row: Mapping[str, Any], key: str) -> str:
    mean = f"{row[key]:.3g}"
    return mean if row["low"] is None else f"{mean} [{row['low']:.3g}, {row['high']:.3g}]"
