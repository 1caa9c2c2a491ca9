"""A run's summary.json, and done.json, the mark of a finished stage."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayalign.storage.records import atomic_write, dumps, finite

Rows = Sequence[Mapping[str, Any]]


def write_summary(
    path: Path,
    results: Rows,
    comparisons: Rows,
    stages: Rows,
    peak_memory_bytes: int | None = None,
    methods: Rows = (),
) -> None:
    """Write a run's figures atomically; numbers that are not finite, such as the interval of one sample, become null.

    Rows of results {name, metric, mean, low, high, n}, of comparisons {a, b, metric, mean_difference, low, high, n}, of
    a minus b on the same prompts, of stages {name, status, seconds}, and of methods {name, any figure}.
    """
    tables = {"results": results, "comparisons": comparisons, "methods": methods, "stages": stages}
    content = {name: _finite_rows(rows) for name, rows in tables.items()}
    atomic_write(path, [dumps({**content, "peak_memory_bytes": peak_memory_bytes}) + "\n"])


def of_all_stages(rows_by_stage: Mapping[str, Rows], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a run; where two stages measured the same, the models carry the stage: `grpo (unseen)`.

    Args:
        names: the columns that hold a model's name.
    """
    columns = (*names, "metric")
    counts = Counter[tuple[str, ...]]()
    for rows in rows_by_stage.values():
        counts.update(_values(row, columns) for row in rows)
    distinct: list[dict[str, Any]] = []
    for stage, rows in rows_by_stage.items():
        for row in rows:
            is_repeated = counts[_values(row, columns)] > 1
            stage_names = {name: f"{row[name]} ({stage})" for name in names}
            distinct.append({**row, **stage_names} if is_repeated else dict(row))
    return distinct


def _values(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def write_done(folder: Path, hash: str, **outputs: Any) -> None:
    """Mark a stage as finished; written last, with the hash of everything that its outputs depend on."""
    fields: dict[str, Any] = {"hash": hash, "time": time.time()}
    for name, output in outputs.items():
        fields[name] = _finite_rows(output) if isinstance(output, list) else output
    atomic_write(folder / "done.json", [dumps(fields) + "\n"])


def read_done(folder: Path) -> dict[str, Any] | None:
    """The content of done.json; None for a stage that has not finished."""
    path = folder / "done.json"
    if not path.is_file():
        return None
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fields


def _finite_rows(rows: Rows) -> list[dict[str, Any]]:
    return [finite(row) for row in rows]
