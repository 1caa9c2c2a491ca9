"""Staleness against speed and reward: PPO of the quickstart's models with 0, 1 and 2 versions, by what is in flight.

python -m benchmarks.staleness RUN [--seeds 0,1,2] [--output FOLDER]

RUN is a finished run of jobs/quickstart.yaml. Every setting trains PPO for as many iterations, and answers the same
unseen prompts. One engine writes a sixteenth of an iteration's answers at a time, so that new weights find some of them
half written. Gold utility is the embedded world's truth. Finished runs under FOLDER are kept. Writes
results/staleness.json, of which `benchmarks.page` draws the plot.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.plots import Series, lines
from benchmarks.record import record
from rayalign.storage.metrics import read_metrics

TREE = Path(__file__).resolve().parents[1]
WARM_UP = 5
"""iterations that count in no speed"""
SLOTS = 8
"""answers that the engine writes at a time"""
MODES = ("continue", "restart", "wait")
TAIL = {"extra_prompts": 4}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "0": {},
    **{f"{lag} {mode}": {"max_staleness": lag, "overlap": {"in_flight": mode}} for lag in (1, 2) for mode in MODES},
    "0 tail dropped": {"overlap": TAIL},
    "1 tail later": {"max_staleness": 1, "overlap": {**TAIL, "tail": "later"}},
}
"""name -> settings of the stage"""
FIGURES = ("rollout/staleness", "rollout/mixed", "rollout/dropped", "rollout/late", "publish/restarted")


def job_text(run: Path, settings: Mapping[str, Any], seed: int, output: Path, name: str) -> str:
    """PPO as in the quickstart, and its answers to unseen prompts."""
    ppo = {
        "kind": "train",
        "algorithm": {"name": "ppo", "epochs": 1, "kl_coefficient": 0.1},
        "model": str(run / "stages" / "sft" / "model"),
        "reward": str(run / "stages" / "rm" / "model"),
        "data": {"split": "train"},
        "candidates": [{"source": "live", "count": 4}],
        "learner": {"learning_rate": 5e-4, "minibatch": 64, "micro_tokens": 1024},
        "prompts": 32,
        "iterations": 20,
        **settings,
    }
    job = {
        "name": name,
        "seed": seed,
        "output": str(output),
        "rollout": {"engine": "local", "engines": 1, "max_sequences": SLOTS, "context": 96},
        "stages": {"ppo": ppo, "final": {"kind": "evaluate", "models": {"ppo": "stage:ppo"}}},
    }
    return yaml.safe_dump(job, sort_keys=False)


def measured(run: Path, setting: str, seed: int, output: Path) -> dict[str, Any]:
    """One run: speed, what became of answers in flight, reward and gold utility."""
    name = f"{setting.replace(' ', '_')}-seed{seed}"
    job = output / f"{name}.yaml"
    job.write_text(job_text(run, SETTINGS[setting], seed, output, name), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("rayalign")), "run", str(job)]
    subprocess.run(command, check=True, timeout=1800, cwd=TREE)
    rows = [row["metrics"] for row in read_metrics(output / name / "stages" / "ppo" / "metrics.jsonl")]
    summary = json.loads((output / name / "summary.json").read_text())
    (gold,) = (row for row in summary["results"] if row["metric"] == "gold_utility")
    return {
        "setting": setting,
        "seed": seed,
        "seconds": statistics.median(row["phase/total"] for row in rows[WARM_UP:]),
        "reward": statistics.mean(row["reward/mean"] for row in rows[-WARM_UP:]),
        "gold_utility": gold["mean"],
        **{name: statistics.mean(row[name] for row in rows) for name in FIGURES},
    }


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Each setting's figures over its seeds."""
    table: dict[str, dict[str, float]] = {}
    for setting in SETTINGS:
        own = [row for row in rows if row["setting"] == setting]
        names = ("seconds", "reward", "gold_utility", *FIGURES)
        table[setting] = {name: statistics.mean(row[name] for row in own) for name in names}
    return table


def plot(table: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds, reward and gold utility over the staleness, a line for each way of answers in flight."""
    charts = []
    for title, figure in (
        ("seconds an iteration", "seconds"),
        ("gold utility", "gold_utility"),
        ("reward", "reward"),
    ):
        series = []
        for mode in MODES:
            settings = ("0", f"1 {mode}", f"2 {mode}")
            points = [(float(lag), table[setting][figure]) for lag, setting in enumerate(settings)]
            series.append(Series(mode, points))
        charts.append((title, series))
    return lines(charts, "max_staleness")


def main() -> None:
    """Run every setting with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        output = (arguments.output or Path(scratch)).resolve()
        output.mkdir(parents=True, exist_ok=True)
        rows = []
        for seed in seeds:  # settings by turns, so that a slow hour of the machine falls on all of them
            rows += [measured(arguments.run.resolve(), setting, seed, output) for setting in SETTINGS]
    table = means(rows)
    record("staleness", {"job": "quickstart's PPO", "means": table, "runs": rows})


if __name__ == "__main__":
    main()
