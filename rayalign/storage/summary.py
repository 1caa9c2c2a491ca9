"""A run's summary.json, and done.json, the mark of a finished stage."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayalign.storage.records import atomic_write, dumps, finite

Rows = Sequence[Mapping[str, Any]]


def write_summary(
    path: Path, results: Rows, comparisons: Rows, stages: Rows, peak_memory_bytes: int | None = None
) -> None:
    """Write a run's figures whole; what is not finite, such as an interval of one sample, becomes null.

    Rows of results {name, metric, mean, low, high, n}, of comparisons {a, b, metric, mean_difference, low, high, n}, of
    a minus b on the same prompts, and of stages {name, status, seconds}.
    """
    tables = {"results": results, "comparisons": comparisons, "stages": stages}
    content = {name: [finite(row) for row in rows] for name, rows in tables.items()}
    atomic_write(path, [dumps({**content, "peak_memory_bytes": peak_memory_bytes}) + "\n"])


def write_done(folder: Path, hash: str, **outputs: Any) -> None:
    """Mark a stage as finished; written last, with the hash of everything that its outputs depend on."""
    tables = {key: [finite(row) for row in rows] if isinstance(rows, list) else rows for key, rows in outputs.items()}
    atomic_write(folder / "done.json", [dumps({"hash": hash, "time": time.time(), **tables}) + "\n"])


def read_done(folder: Path) -> dict[str, Any] | None:
    """What `write_done` wrote, None for a stage that has not finished."""
    path = folder / "done.json"
    if not path.is_file():
        return None
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return done
