"""Several finished runs side by side: the spread over seeds, and paired differences where prompts agree."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, paired_difference
from rayalign.storage.records import read_jsonl


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
        rows.append(_spread(name, metric, means))
    return rows


def differences(runs: Sequence[Path]) -> list[Difference]:
    """For each two runs and each model that both evaluated: the mean of the second less the first, by prompt."""
    values = {name: _values(run) for name, run in run_names(runs).items()}
    rows: list[Difference] = []
    for first, second in combinations(values, 2):
        for model in values[first].keys() & values[second].keys():
            before, after = values[first][model], values[second][model]
            shared = [prompt for prompt in before if prompt in after]
            pairs = [(after[prompt], before[prompt]) for prompt in shared]
            if any(None not in pair for pair in pairs):
                interval = paired_difference([new for new, _ in pairs], [old for _, old in pairs], shared)
                rows.append(Difference(model, first, second, interval))
    return sorted(rows)


def run_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Each run under the name of its folder, or under its whole path where two folders have one name.

    Raises:
        InputError: a run is named twice.
    """
    counts = Counter(run.resolve().name for run in runs)
    names: dict[str, Path] = {}
    for run in runs:
        name = run.resolve().name
        key = str(run) if counts[name] > 1 else name
        if key in names:
            raise InputError(f"compare: {run} is named twice; name each run once")
        names[key] = run
    return names


def _spread(name: str, metric: str, means: Sequence[float]) -> Spread:
    return Spread(
        name=name,
        metric=metric,
        mean=statistics.fmean(means),
        deviation=statistics.stdev(means) if len(means) > 1 else None,
        lowest=min(means),
        highest=max(means),
        runs=len(means),
    )


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    if not path.is_file():
        raise InputError(f"{run}: there is no summary.json of a run; name the folders of runs")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _values(run: Path) -> dict[str, dict[str, float | None]]:
    """By model, the value of each prompt; a model of several evaluations carries the stage: `grpo (unseen)`."""
    stages = {path.parent.name: _measured(path) for path in sorted((run / "stages").glob("*/records.jsonl"))}
    counts = Counter[str]()
    for models in stages.values():
        counts.update(models.keys())
    values: dict[str, dict[str, float | None]] = {}
    for stage, models in stages.items():
        for model, own in models.items():
            name = f"{model} ({stage})" if counts[model] > 1 else model
            values[name] = own
    return values


def _measured(path: Path) -> dict[str, dict[str, float | None]]:
    """By model, the value of each prompt of one evaluation; nothing of other records."""
    values: dict[str, dict[str, float | None]] = {}
    for row in read_jsonl(path):
        if not {"model", "prompt_id", "value"} <= row.keys():
            break
        values.setdefault(row["model"], {})[row["prompt_id"]] = row["value"]
    return values
