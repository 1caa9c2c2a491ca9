"""The small studies over several seeds: python -m benchmarks.studies [--output FOLDER] [--seeds 0,1,2] [STUDY...].

With --recorded only the pages are written anew, from the recorded results.

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
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, record
from benchmarks.sampling_settings import sampling_figures
from benchmarks.study_list import REAL_DATA, STUDIES, Study
from benchmarks.study_page import write_page
from benchmarks.study_settings import settings_rows
from benchmarks.study_values import Values, difference, model_names, read_values
from rayalign.statistics.doubts import reward_doubts
from rayalign.statistics.intervals import Interval, mean_interval
from rayalign.statistics.ranks import rank_correlation
from rayalign.storage.report_best_of import KL, KL_BOUND, bounded_rates, is_within

HOUR = 3600


def run(study: Study, seed: int, output: Path, overrides: Sequence[str] = ()) -> Path:
    """The folder of a finished run."""
    name = f"{Path(study.job).stem}-{seed}"
    command = [str(Path(sys.executable).with_name("rayalign")), "run", study.job, *overrides]
    subprocess.run([*command, f"seed={seed}", f"output={output}", f"name={name}"], check=True, timeout=4 * HOUR)
    return output / name


def figures(study: Study, folders: Mapping[int, Path]) -> dict[str, Any]:
    """Everything that the page shows."""
    values = read_values(study.stage, folders)
    summaries = {seed: json.loads((folder / "summary.json").read_text()) for seed, folder in folders.items()}
    models = model_names(values)
    rows = []
    for model in models:
        row: dict[str, Any] = {"model": model, "value": _mean(values, model)._asdict()}
        for control in study.controls:
            if control != model and model in _compared(summaries):
                row[f"over_{control}"] = difference(values, model, control)
        row["perplexity"] = _perplexity(summaries, model)
        row["win_rates"] = _win_rates(summaries, model)
        row["seconds"] = _seconds(summaries, model)
        rows.append(row)
    total = {seed: sum(stage["seconds"] for stage in summary["stages"]) for seed, summary in summaries.items()}
    return {
        "job": study.job,
        "measure": study.measure,
        "doubts": doubts(summaries),
        "seeds": sorted(folders),
        "seconds_of_each_seed": total,
        "peak_memory_bytes": {seed: summary["peak_memory_bytes"] for seed, summary in summaries.items()},
        "models": sorted(rows, key=lambda row: -row["value"]["mean"]),
        "rank_correlations": _correlations(study, rows),
        "judge_correlations": judge_correlations(rows),
        "best_of_n": best_of_n(summaries),
        "best_of_n_rates": best_of_n_rates(summaries),
        "settings": settings_rows(study.job),
        "sampling": sampling_figures(study.settings, folders, summaries) if study.settings else None,
    }


def doubts(summaries: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """What speaks against the reward models that figures rest on, in each seed."""
    sentences = []
    for seed, summary in summaries.items():
        for own in reward_doubts(summary["results"]).values():
            sentences += [f"Seed {seed}: {sentence}" for sentence in own]
    return sentences


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
    """The estimated KL of each model that chooses among n answers [nats], with its bound, in each seed.

    The estimate cannot exceed its bound; `best_of_n_rates` are the test.
    """
    rows = []
    for seed, summary in summaries.items():
        bounds = {row["name"]: row["mean"] for row in summary["results"] if row["metric"] == KL_BOUND}
        for row in summary["results"]:
            if row["metric"] == KL:
                estimate = {name: row[name] for name in ("mean", "low", "high")}
                rows.append({"model": row["name"], "seed": seed, "kl": estimate, "bound": bounds[row["name"]]})
    return rows


def best_of_n_rates(summaries: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each judge's win rate of best-of-n against its reference [%], with its bound, in each seed."""
    rows = []
    for seed, summary in summaries.items():
        for row, bound in bounded_rates(summary["results"]):
            judge, _, reference = row["metric"].removeprefix("win_rate_by_").partition("_against_")
            rate = {name: row[name] for name in ("mean", "low", "high")}
            names = {"model": row["name"], "seed": seed, "judge": judge, "reference": reference}
            rows.append({**names, "rate": rate, "bound": bound, "within": is_within(row, bound)})
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


def _perplexity(summaries: Mapping[int, Mapping[str, Any]], model: str) -> float | None:
    """The mean over seeds of the perplexity of a model's answers; None where the job measures none."""
    perplexities = []
    for summary in summaries.values():
        for row in summary["results"]:
            if row["name"] == model and row["metric"] == "perplexity":
                perplexities.append(row["mean"])
    return sum(perplexities) / len(perplexities) if perplexities else None


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
    ours: dict[str, dict[str, float]] = {study.measure: {row["model"]: row["value"]["mean"] for row in rows}}
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
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the jobs; hh_rlhf: data.path"
    )
    parser.add_argument("--recorded", action="store_true", help="run nothing; write the pages from the results")
    options = parser.parse_args()
    unknown = set(options.studies) - set(STUDIES)
    if unknown:
        parser.error(f"there is no study {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in options.studies or [name for name in STUDIES if name != REAL_DATA]:
        study = STUDIES[name]
        if options.recorded:
            results = json.loads((RESULTS / f"study_{name}.json").read_text())
        else:
            folders = {seed: run(study, seed, options.output.resolve(), options.set) for seed in seeds}
            results = figures(study, folders)
            record(f"study_{name}", results)
        write_page(name, study.title, study.introduction, results, study.published or {})


if __name__ == "__main__":
    main()
