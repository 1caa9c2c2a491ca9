"""Proxy and truth over the distance from the first policy: python -m benchmarks.scaling_laws [FOLDER] [SEED...].

`python -m benchmarks.scaling_laws_page` writes the page anew from the recorded results.

Gao 2022 (arXiv 2210.10760) in small: best-of-n and PPO against reward models of two sizes, trained on two sizes of
data. The distance is d = sqrt(KL). Writes results/scaling_laws.json, docs/studies/scaling_laws.md and its plot.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.record import record
from benchmarks.scaling_laws_page import write_page
from rayalign.data.paddock import gold
from rayalign.evaluation.curves import padded, trained_groups
from rayalign.evaluation.scaling_laws import Form, Law, best_of_n_values, fit
from rayalign.statistics.best_of_n import best_of_n_kl
from rayalign.storage.journal import Journal
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import decode, read_jsonl
from rayalign.types import Example

JOB = "jobs/small/scaling_laws.yaml"
MODELS = ("nano_many", "nano_few", "pico_many", "pico_few")
SIZES = (1, 2, 4, 8, 16, 32, 64)
WINDOW = 6
"""iterations of PPO in one point"""
Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Gains over the first policy, a row for each distance and a column for each prompt."""

    distances: list[float]
    proxy_SP: Array
    gold_SP: Array


def run(seed: int, output: Path) -> Path:
    """The folder of a finished run."""
    name = f"scaling_laws-{seed}"
    command = [str(Path(sys.executable).with_name("rayalign")), "run", JOB]
    subprocess.run([*command, f"seed={seed}", f"output={output}", f"name={name}"], check=True, timeout=4 * 3600)
    return output / name


def candidates(folder: Path, model: str) -> tuple[Array, Array]:
    """Proxy and gold of the first policy's answers: [prompts, candidates]."""
    proxy_rows, gold_rows = [], []
    path = folder / "stages" / f"best_{model}" / "drawn.jsonl"
    for row in read_jsonl(path):
        example = decode(Example, row, str(path))
        scores = [candidate.score for candidate in example.candidates]
        if None in scores or len(scores) < max(SIZES):
            continue
        proxy_rows.append(scores)
        gold_rows.append([gold.utility(example.prompt, candidate.text) for candidate in example.candidates])
    return np.array(proxy_rows, dtype=np.float64), np.array(gold_rows)


def best_of_n_curve(proxy_PN: Array, gold_PN: Array) -> Curve:
    """Each size as one distance; each prompt against the first policy's mean on the same prompt."""
    distances = [math.sqrt(best_of_n_kl(n)) for n in SIZES]
    proxy_SP = best_of_n_values(proxy_PN, proxy_PN, SIZES) - proxy_PN.mean(axis=1)
    gold_SP = best_of_n_values(proxy_PN, gold_PN, SIZES) - gold_PN.mean(axis=1)
    return Curve(distances, proxy_SP, gold_SP)


def ppo_curve(folder: Path, model: str, proxy_start: float, gold_start: float) -> Curve:
    """Each window of iterations as one distance; its answers are those that were trained on."""
    stage = f"ppo_{model}"
    metrics = read_metrics(folder / "stages" / stage / "metrics.jsonl")
    kl = {row["step"]: row["metrics"]["kl/reference"] for row in metrics}
    steps = sorted(kl)
    windows = [steps[start : start + WINDOW] for start in range(0, len(steps), WINDOW)]
    proxy_rows: list[list[float]] = [[] for _ in windows]
    gold_rows: list[list[float]] = [[] for _ in windows]
    with closing(Journal(folder / "journal" / f"{stage}.jsonl")) as journal:
        for group in trained_groups(journal):
            place = steps.index(group.iteration) // WINDOW
            proxy_rows[place].append(group.proxy - proxy_start)
            gold_rows[place].append(group.gold - gold_start)
    distances = []
    for window in windows:
        mean_kl = sum(kl[step] for step in window) / len(window)
        distances.append(math.sqrt(max(0.0, mean_kl)))
    return Curve(distances, padded(proxy_rows), padded(gold_rows))


def figures(seed: int, folder: Path) -> list[dict[str, Any]]:
    """Every curve of a run with its laws."""
    summary = json.loads((folder / "summary.json").read_text())
    accuracies = {row["name"]: row for row in summary["results"] if row["metric"] == "reward_accuracy"}
    rows = []
    for model in MODELS:
        proxy_PN, gold_PN = candidates(folder, model)
        start = float(proxy_PN.mean()), float(gold_PN.mean())
        curves: dict[Form, Curve] = {
            "best_of_n": best_of_n_curve(proxy_PN, gold_PN),
            "rl": ppo_curve(folder, model, *start),
        }
        for form, curve in curves.items():
            rows.append(
                {
                    "seed": seed,
                    "reward_model": model,
                    "accuracy": accuracies[f"rm_{model}"]["mean"],
                    "method": form,
                    "distances": curve.distances,
                    "proxy": np.nanmean(curve.proxy_SP, axis=1).tolist(),
                    "gold": np.nanmean(curve.gold_SP, axis=1).tolist(),
                    "proxy_law": _law(fit(form, curve.distances, curve.proxy_SP, seed=seed)),
                    "gold_law": _law(fit(form, curve.distances, curve.gold_SP, seed=seed)),
                }
            )
    return rows


def _law(law: Law) -> dict[str, Any]:
    return {"alpha": law.alpha._asdict(), "beta": law.beta._asdict(), "r_squared": law.r_squared}


def main() -> None:
    """Run the job for each seed and keep its curves."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "runs").resolve()
    seeds = [int(seed) for seed in sys.argv[2:]] or [0]
    rows = []
    for seed in seeds:
        rows += figures(seed, run(seed, output))
    record("scaling_laws", {"job": JOB, "seeds": seeds, "curves": rows})
    write_page(rows)


if __name__ == "__main__":
    main()
