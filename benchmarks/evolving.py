"""The study page of evolving prompts, from finished runs: python -m benchmarks.evolving RUN... [--metrics RUN...]

Each RUN is the folder of `rayalign run jobs/small/eva.yaml` with a seed of its own; those after --metrics are of
`jobs/small/eva_metrics.yaml`. Writes results/evolving.json and docs/studies/evolving.md with its plots:

    arms          gold utility of each arm on held-out hard prompts and on usual ones, and what eva gains over each
    rounds        how difficult the prompts became, and how much those of each true difficulty still taught
    metrics       one round of evolution by each measure of informativeness, against an even selection
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.evolving_page import write_page
from benchmarks.personalized import seed_of
from benchmarks.record import record
from benchmarks.study_values import Values, difference, model_names, read_values
from rayalign.statistics.intervals import mean_interval

JOB = "jobs/small/eva.yaml"
METRICS_JOB = "jobs/small/eva_metrics.yaml"
ARM = "eva"
PROMPT_SETS = ("hard", "usual")
"""the evaluations of JOB"""
EVOLVING_ARMS = ("random", "eva")
ROUNDS = (1, 2, 3)
Folders = Mapping[int, Path]
"""seed -> folder of its run"""


def figures(folders: Folders, metrics_folders: Folders) -> dict[str, Any]:
    """Everything that the page shows."""
    return {
        **_cost(JOB, folders),
        "arms": {name: arms(read_values(name, folders)) for name in PROMPT_SETS},
        "rounds": [one_round(folders, arm, number) for arm in EVOLVING_ARMS for number in ROUNDS],
        "metrics": metrics(metrics_folders) if metrics_folders else None,
    }


def arms(values: Values) -> list[dict[str, Any]]:
    """Each arm: its gold utility, and what eva has more than it."""
    rows = []
    for name in model_names(values):
        row: dict[str, Any] = {"model": name, "gold_utility": _gold(values, name)}
        if name != ARM:
            row["eva_less"] = difference(values, ARM, name)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["gold_utility"]["mean"])


def one_round(folders: Folders, arm: str, number: int) -> dict[str, Any]:
    """The prompts of one round of an arm, as means over the seeds."""
    stage = f"{arm}_prompts@{number}"
    outcomes = [json.loads((folder / "stages" / stage / "done.json").read_text()) for folder in folders.values()]
    return {
        "arm": arm,
        "round": number,
        "selected": fmean(outcome["selected"] for outcome in outcomes),
        "evolved": fmean(outcome["evolved"] for outcome in outcomes),
        "refused": fmean(sum(outcome["refused"].values()) for outcome in outcomes),
        "before": fmean(outcome["difficulty"]["before"] for outcome in outcomes),
        "after": fmean(outcome["difficulty"]["after"] for outcome in outcomes),
        "by_difficulty": _by_difficulty([outcome["by_difficulty"] for outcome in outcomes]),
    }


def metrics(folders: Folders) -> dict[str, Any]:
    """The ablation: each measure of informativeness against an even selection."""
    values = read_values("comparison", folders)
    rows = []
    for name in model_names(values):
        row: dict[str, Any] = {"model": name, "gold_utility": _gold(values, name)}
        if name not in ("uniform", "oracle"):
            row["over_uniform"] = difference(values, name, "uniform")
        rows.append(row)
    return {**_cost(METRICS_JOB, folders), "models": sorted(rows, key=lambda row: -row["gold_utility"]["mean"])}


def _cost(job: str, folders: Folders) -> dict[str, Any]:
    summaries = {seed: json.loads((folder / "summary.json").read_text()) for seed, folder in folders.items()}
    return {
        "job": job,
        "seeds": sorted(folders),
        "seconds_of_each_seed": {seed: sum(row["seconds"] for row in one["stages"]) for seed, one in summaries.items()},
        "peak_memory_bytes": {seed: summary["peak_memory_bytes"] for seed, summary in summaries.items()},
    }


def _gold(values: Values, name: str) -> dict[str, Any]:
    keys = [key for key, row in values.items() if name in row]
    return mean_interval([values[key][name] for key in keys], keys)._asdict()


def _by_difficulty(tables: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float | None]]:
    """The means over seeds of each figure, for each true difficulty."""
    means: dict[str, dict[str, float | None]] = {}
    for difficulty in sorted({difficulty for table in tables for difficulty in table}):
        rows = [table[difficulty] for table in tables if difficulty in table]
        means[difficulty] = {name: _mean([row[name] for row in rows]) for name in rows[0]}
    return means


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def main() -> None:
    """Write the figures and the page of the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=f"folders of {JOB}")
    parser.add_argument("--metrics", nargs="+", type=Path, default=[], metavar="RUN", help=f"folders of {METRICS_JOB}")
    options = parser.parse_args()
    folders = {seed_of(run): run for run in options.runs}
    results = figures(folders, {seed_of(run): run for run in options.metrics})
    record("evolving", results)
    write_page(results)


if __name__ == "__main__":
    main()
