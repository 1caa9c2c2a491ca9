"""Several finished runs side by side: the spread over seeds, and paired differences where prompts agree."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, paired_difference
from rayalign.storage.records import read_jsonl

Values = Mapping[str, float | None]
"""prompt id -> value"""


class Spread(NamedTuple):
    """One figure of one model over runs."""

    name: str
    metric: str
    mean: float
    deviation: float | None
    """between runs; None of one run"""
    lowest: float
    highest: float
    runs: int


class Difference(NamedTuple):
    """The same model in two runs, on the prompts that both have."""

    name: str
    a: str
    b: str
    interval: Interval


def spreads(runs: Sequence[Path]) -> list[Spread]:
    """Each figure of the runs' summaries, over all runs that have it.

    Raises:
        InputError: a folder holds no summary of a run.
    """
    figures: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for row in _summary(run)["results"]:
            if row["mean"] is not None:
                figures.setdefault((row["name"], row["metric"]), []).append(row["mean"])
    rows: list[Spread] = []
    for (name, metric), means in figures.items():
        deviation = statistics.stdev(means) if len(means) > 1 else None
        rows.append(Spread(name, metric, statistics.fmean(means), deviation, min(means), max(means), len(means)))
    return rows


def differences(runs: Sequence[Path]) -> list[Difference]:
    """For each two runs and each model that both evaluated: the mean of the second less the first, by prompt."""
    values = {run: _values(run) for run in runs}
    rows: list[Difference] = []
    for first, second in combinations(runs, 2):
        for name in values[first].keys() & values[second].keys():
            before, after = values[first][name], values[second][name]
            shared = [prompt for prompt in before if prompt in after]
            pairs = [(after[prompt], before[prompt]) for prompt in shared]
            if any(None not in pair for pair in pairs):
                interval = paired_difference([new for new, _ in pairs], [old for _, old in pairs], shared)
                rows.append(Difference(name, first.name, second.name, interval))
    return sorted(rows)


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    if not path.is_file():
        raise InputError(f"{run}: there is no summary.json of a run; name the folders of runs")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _values(run: Path) -> Mapping[str, Values]:
    """By model, the value of each prompt in the run's evaluations."""
    values: dict[str, dict[str, float | None]] = {}
    for row in _measured(run):
        values.setdefault(row["model"], {})[row["prompt_id"]] = row["value"]
    return values


def _measured(run: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((run / "stages").glob("*/records.jsonl")):
        for row in read_jsonl(path):
            if not {"model", "prompt_id", "value"} <= row.keys():
                break
            yield row
