"""The small studies over several seeds: python -m benchmarks.studies [--output FOLDER] [--seeds 0,1,2] [STUDY...].

A job is run once for each seed; stages that the folder already has are kept. The figures go to results/study_NAME.json,
a page with tables and a plot to docs/studies/NAME.md.

A difference counts as shown where its interval excludes 0 and every seed has the same sign. Intervals are bootstraps
over prompts within seeds; the spread over seeds stands beside them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.sampling_settings import SETTINGS, sampling_figures
from benchmarks.study_page import write_page
from benchmarks.study_values import Values, difference, model_names, read_values
from rayalign.statistics.best_of_n import exceeds
from rayalign.statistics.intervals import Interval, mean_interval
from rayalign.statistics.ranks import rank_correlation
from rayalign.storage.report_best_of import KL, KL_BOUND

ALPACA_FARM = {
    "ppo": (46.8, 55.1),
    "best_of_16": (45.0, 50.7),
    "expert_iteration": (41.9, 45.7),
    "sft": (36.7, 44.3),
    "feedme": (36.6, 37.9),
    "quark": (35.6, None),
    "conditioning": (32.4, None),
}
"""win rates against text-davinci-003 with simulated and with human feedback (Dubois 2023, arXiv 2305.14387, table 2)"""
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Study:
    """A job whose last stage compares models, and what its page says."""

    job: str
    stage: str
    """the evaluation"""
    controls: tuple[str, ...]
    """models that the others are compared with"""
    title: str
    introduction: str
    published: Mapping[str, tuple[float | None, float | None]] | None = None
    """AlpacaFarm's columns, simulated and human, of the models that have them"""
    settings: Mapping[str, str] = field(default_factory=dict)
    """RRHF's table: model -> where its candidates came from"""


STUDIES = {
    "methods": Study(
        job="jobs/small/methods.yaml",
        stage="comparison",
        controls=("sft", "sft_continued"),
        title="All methods in the embedded world",
        introduction=(
            "Every method starts from the same fine-tuned model of a million parameters and learns from the same "
            "verdicts of a noisy pool of simulated annotators, or from the reward model that was trained on them. "
            "`sft_continued` takes as many steps on demonstrations as the longest of the others. Each learning rate is "
            "the first one tried, so the rows do not rank the methods at their best."
        ),
        published=ALPACA_FARM,
    ),
    "rrhf": Study(
        job="jobs/small/rrhf.yaml",
        stage="gold",
        controls=("sft", "dp"),
        title="RRHF's samplers in the embedded world",
        introduction=(
            "The same ranking loss on candidates of different samplers (Yuan 2023, arXiv 2304.05302, tables 1 and 2). "
            "`no_rank` is `dp` without the ranking term."
        ),
        settings=SETTINGS,
    ),
    "alpacafarm": Study(
        job="jobs/small/alpacafarm.yaml",
        stage="comparison",
        controls=("sft",),
        title="AlpacaFarm's study in the embedded world",
        introduction=(
            "Two answers to each prompt, one verdict of the noisy pool on them, and every method of the paper. Two "
            "judges compare all models with the fine-tuned one; `gold` is the truth itself."
        ),
        published=ALPACA_FARM,
    ),
}


def run(study: Study, seed: int, output: Path) -> Path:
    """The folder of a finished run."""
    name = f"{Path(study.job).stem}-{seed}"
    command = [str(Path(sys.executable).with_name("rayalign")), "run", study.job]
    subprocess.run([*command, f"seed={seed}", f"output={output}", f"name={name}"], check=True, timeout=4 * HOUR)
    return output / name


def figures(study: Study, folders: Mapping[int, Path]) -> dict[str, Any]:
    """Everything that the page shows."""
    values = read_values(study.stage, folders)
    summaries = {seed: json.loads((folder / "summary.json").read_text()) for seed, folder in folders.items()}
    models = model_names(values)
    rows = []
    for model in models:
        row: dict[str, Any] = {"model": model, "gold_utility": _mean(values, model)._asdict()}
        for control in study.controls:
            if control != model and model in _compared(summaries):
                row[f"over_{control}"] = difference(values, model, control)
        row["win_rates"] = _win_rates(summaries, model)
        row["seconds"] = _seconds(summaries, model)
        rows.append(row)
    total = {seed: sum(stage["seconds"] for stage in summary["stages"]) for seed, summary in summaries.items()}
    return {
        "job": study.job,
        "seeds": sorted(folders),
        "seconds_of_each_seed": total,
        "peak_memory_bytes": {seed: summary["peak_memory_bytes"] for seed, summary in summaries.items()},
        "models": sorted(rows, key=lambda row: -row["gold_utility"]["mean"]),
        "rank_correlations": _correlations(study, rows),
        "judge_correlations": judge_correlations(rows),
        "best_of_n": best_of_n(summaries),
        "sampling": sampling_figures(study.settings, folders, summaries) if study.settings else None,
    }


def judge_correlations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's correlation of each two judges' win rates against a rival, over the models that both judged."""
    by_rival: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        for name, rate in row["win_rates"].items():
            judge, _, rival = name.partition("_against_")
            by_rival.setdefault(rival, {}).setdefault(judge, {})[row["model"]] = rate
    correlations = []
    for rival, judges in by_rival.items():
        for first, second in combinations(judges, 2):
            models = [model for model in judges[first] if model in judges[second]]
            rho = rank_correlation([judges[first][m] for m in models], [judges[second][m] for m in models])
            pair = {"judges": [first, second], "against": rival}
            correlations.append({**pair, "rank_correlation": rho, "models": len(models)})
    return correlations


def best_of_n(summaries: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The estimated KL of each model that chooses among n answers [nats], with its bound, in each seed."""
    rows = []
    for seed, summary in summaries.items():
        bounds = {row["name"]: row["mean"] for row in summary["results"] if row["metric"] == KL_BOUND}
        for row in summary["results"]:
            if row["metric"] == KL:
                estimate = {name: row[name] for name in ("mean", "low", "high")}
                bound = bounds[row["name"]]
                is_within = not exceeds(Interval(**estimate, n=row["n"]), bound)
                rows.append({"model": row["name"], "seed": seed, "kl": estimate, "bound": bound, "within": is_within})
    return rows


def _compared(summaries: Mapping[int, Mapping[str, Any]]) -> set[str]:
    """Models that the job compares with others; its baselines are not among them."""
    return {row["a"] for summary in summaries.values() for row in summary["comparisons"]}


def _mean(values: Values, model: str) -> Interval:
    keys = [key for key, row in values.items() if model in row]
    return mean_interval([values[key][model] for key in keys], keys)


def _win_rates(summaries: Mapping[int, Mapping[str, Any]], model: str) -> dict[str, float]:
    """The mean over seeds of each judge's win rate [%]."""
    rates: dict[str, list[float]] = {}
    for summary in summaries.values():
        for row in summary["results"]:
            if row["name"] == model and row["metric"].startswith("win_rate_by_"):
                rates.setdefault(row["metric"].removeprefix("win_rate_by_"), []).append(row["mean"])
    return {name: sum(means) / len(means) for name, means in rates.items()}


def _seconds(summaries: Mapping[int, Mapping[str, Any]], model: str) -> float | None:
    """The mean time of the stage of that name; None where there is none."""
    seconds = []
    for summary in summaries.values():
        seconds += [stage["seconds"] for stage in summary["stages"] if stage["name"] == model]
    return sum(seconds) / len(seconds) if seconds else None


def _correlations(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's correlation of each judge, and of gold utility, with the published columns."""
    if not study.published:
        return {}
    control = study.controls[0]
    ours: dict[str, dict[str, float]] = {"gold utility": {row["model"]: row["gold_utility"]["mean"] for row in rows}}
    for row in rows:
        for name, rate in row["win_rates"].items():
            judge, _, rival = name.partition("_against_")
            if rival == control:
                ours.setdefault(judge, {control: 50.0})[row["model"]] = rate
    correlations: dict[str, dict[str, float]] = {}
    for place, column in enumerate(("simulated", "human")):
        published = {name: pair[place] for name, pair in study.published.items() if pair[place] is not None}
        for judge, rates in ours.items():
            names = [name for name in published if name in rates]
            rho = rank_correlation([rates[name] for name in names], [float(published[name] or 0) for name in names])
            correlations.setdefault(judge, {})[f"{column}, {len(names)} methods"] = rho
    return correlations


def main() -> None:
    """Run the named studies, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    options = parser.parse_args()
    unknown = set(options.studies) - set(STUDIES)
    if unknown:
        parser.error(f"there is no study {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in options.studies or STUDIES:
        study = STUDIES[name]
        folders = {seed: run(study, seed, options.output.resolve()) for seed in seeds}
        results = figures(study, folders)
        record(f"study_{name}", results)
        write_page(name, study.title, study.introduction, results, study.published or {})


if __name__ == "__main__":
    main()
