"""The study page of personalised soups, from finished runs of its job: python -m benchmarks.personalized RUN...

Each RUN is the folder of `rayalign run jobs/small/personalized_soups.yaml` with a seed of its own. Writes
results/personalized_soups.json and docs/studies/personalized_soups.md with its plots:

    profiles      gold utility of every method on prompts x profiles, and what the soups gain over each rival
    wins          every method against every other by gold utility, and against three rivals by both judges,
                  who also compare by each preference alone and by helpfulness
    helpfulness   gold utility of the same answers to the same prompts without their profiles
    axes          share of answers that meet a pole, over its weight in the merge of two adapters
    cost          seconds of training that were measured, over the number of profiles that they serve
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.personalized_page import write_page
from benchmarks.personalized_wins import by_criteria, by_judges, read_helpfulness, win_matrix
from benchmarks.record import record
from benchmarks.study_values import Values, difference, model_names, read_values
from rayalign.statistics.intervals import mean_interval

JOB = "jobs/small/personalized_soups.yaml"
STAGE = "profiles"
SOUPS = ("psoups", "psoups_unprompted")
AXES = {
    "expertise": ("P1A", "P1B"),
    "information": ("P2A", "P2B"),
    "style": ("P3A", "P3B"),
}
"""dimension, as the job's stages name it -> the pole at weight 0 and the one at weight 1"""
WEIGHTS = (0, 25, 50, 75, 100)
"""of the second pole [%]"""
CRITERIA = {
    "asked_level": "P1B: learned words",
    "asked_length": "P2B: at length",
    "asked_tone": "P3B: formal tone",
}
"""metric of the stage `axes` -> what it is the share of"""
MOST_DIMENSIONS = 6
"""of the cost that is shown; each has two poles"""
Summary = Mapping[str, Any]


def figures(folders: Mapping[int, Path]) -> dict[str, Any]:
    """Everything that the page shows."""
    summaries = {seed: json.loads((folder / "summary.json").read_text()) for seed, folder in folders.items()}
    values = read_values(STAGE, folders)
    helpfulness = read_helpfulness(STAGE, folders)
    seconds = {seed: sum(stage["seconds"] for stage in summary["stages"]) for seed, summary in summaries.items()}
    return {
        "job": JOB,
        "seeds": sorted(folders),
        "seconds_of_each_seed": seconds,
        "peak_memory_bytes": {seed: summary["peak_memory_bytes"] for seed, summary in summaries.items()},
        "prompts": len({_base_prompt(key) for key in values}),
        "methods": methods(values, helpfulness, summaries),
        "profiles": by_profile(values),
        "wins_by_gold": win_matrix(values, _base_prompt),
        "wins_by_judges": by_judges(summaries),
        "wins_by_criteria": by_criteria(summaries),
        "axes": axes(summaries),
        "cost": cost(summaries),
    }


def methods(values: Values, helpfulness: Values, summaries: Mapping[int, Summary]) -> list[dict[str, Any]]:
    """Each method on all profiles: its gold utility, its mean win rate, and what the soups have more than it."""
    rows = []
    for name in model_names(values):
        row: dict[str, Any] = {"model": name, "gold_utility": _mean(values, name)}
        row["helpfulness"] = _mean(helpfulness, name)
        row["win_rate_average"] = _mean_of(summaries, name, "win_rate_average")
        row["as_asked"] = {metric: _mean_of(summaries, name, metric) for metric in CRITERIA}
        for soup in SOUPS:
            if soup != name:
                row[f"{soup}_less"] = difference(values, soup, name, _base_prompt)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["gold_utility"]["mean"])


def _mean(values: Values, name: str) -> dict[str, Any]:
    keys = [key for key, row in values.items() if name in row]
    return mean_interval([values[key][name] for key in keys], [_base_prompt(key) for key in keys])._asdict()


def by_profile(values: Values) -> list[dict[str, Any]]:
    """Each profile: the gold utility of every method there."""
    parts: dict[str, Values] = {}
    for key, row in values.items():
        parts.setdefault(_profile(key), {})[key] = row
    rows = []
    for profile, part in parts.items():
        means: dict[str, list[float]] = {}
        for row in part.values():
            for name, value in row.items():
                means.setdefault(name, []).append(value)
        rows.append({"profile": profile, "means": {name: fmean(own) for name, own in means.items()}})
    return rows


def axes(summaries: Mapping[int, Summary]) -> list[dict[str, Any]]:
    """Each axis: the share of the answers that meet each criterion, at each weight of the second pole."""
    rows = []
    for axis, poles in AXES.items():
        points = []
        for weight in WEIGHTS:
            shares = {metric: _interval(summaries, f"{axis}_{weight}", metric) for metric in CRITERIA}
            points.append({"weight": weight / 100, "shares": shares})
        rows.append({"axis": axis, "poles": poles, "points": points})
    base = {metric: _interval(summaries, "base", metric) for metric in CRITERIA}
    return [{"axis": "base", "poles": (), "points": [{"weight": 0.0, "shares": base}]}, *rows]


def cost(summaries: Mapping[int, Summary]) -> dict[str, Any]:
    """Seconds of training a policy of one preference, and what that makes for more dimensions of two poles."""
    names = list(itertools.chain.from_iterable(AXES.values()))
    policies = {name: _seconds(summaries, f"soup_{name}") for name in names}
    merges = _seconds_of_all(summaries, "merged_")
    each = fmean(policies.values())
    rows = []
    for dimensions in range(1, MOST_DIMENSIONS + 1):
        preferences, profiles = 2 * dimensions, 2**dimensions
        row = {"preferences": preferences, "profiles": profiles, "soups_seconds": preferences * each}
        rows.append({**row, "separate_seconds": profiles * each})
    return {
        "policies": policies,
        "policy_seconds": each,
        "merge_seconds": fmean(merges),
        "pmorl_seconds": _seconds(summaries, "pmorl"),
        "dimensions": rows,
    }


def _base_prompt(key: tuple[int, str]) -> tuple[int, str]:
    """Seed and prompt without its profile: what is resampled as a whole."""
    seed, prompt_id = key
    return seed, prompt_id.rpartition("~")[0]


def _profile(key: tuple[int, str]) -> str:
    return key[1].rpartition("~")[2]


def _rows(summaries: Mapping[int, Summary], name: str, metric: str) -> list[Mapping[str, Any]]:
    """The row of that name and metric of each run."""
    rows = []
    for seed, summary in summaries.items():
        own = [row for row in summary["results"] if (row["name"], row["metric"]) == (name, metric)]
        if not own:
            raise SystemExit(f"seed {seed}: the run has no {metric} of {name}; run the whole of {JOB}")
        rows += own
    return rows


def _mean_of(summaries: Mapping[int, Summary], name: str, metric: str) -> float | None:
    means = []
    for summary in summaries.values():
        means += [row["mean"] for row in summary["results"] if (row["name"], row["metric"]) == (name, metric)]
    return fmean(means) if means else None


def _interval(summaries: Mapping[int, Summary], name: str, metric: str) -> dict[str, float]:
    """The mean over seeds, between the lowest and the highest end of their intervals."""
    rows = _rows(summaries, name, metric)
    lows = [row["mean"] if row["low"] is None else row["low"] for row in rows]
    highs = [row["mean"] if row["high"] is None else row["high"] for row in rows]
    return {"mean": fmean(row["mean"] for row in rows), "low": min(lows), "high": max(highs)}


def _seconds(summaries: Mapping[int, Summary], stage: str) -> float:
    seconds = []
    for summary in summaries.values():
        seconds += [row["seconds"] for row in summary["stages"] if row["name"] == stage]
    if not seconds:
        raise SystemExit(f"no run has the stage {stage}; run the whole of {JOB}")
    return fmean(seconds)


def _seconds_of_all(summaries: Mapping[int, Summary], prefix: str) -> list[float]:
    seconds = []
    for summary in summaries.values():
        seconds += [row["seconds"] for row in summary["stages"] if row["name"].startswith(prefix)]
    return seconds


def seed_of(folder: Path) -> int:
    """The seed of a run, from the copy of its job."""
    import yaml

    job = yaml.safe_load((folder / "job.yaml").read_text(encoding="utf-8"))
    return int(job.get("seed", 0))


def main(arguments: Sequence[str]) -> None:
    """Write the figures and the page of the runs."""
    if not arguments:
        raise SystemExit(__doc__)
    folders = {seed_of(Path(argument)): Path(argument) for argument in arguments}
    results = figures(folders)
    record("personalized_soups", results)
    write_page(results, CRITERIA)


if __name__ == "__main__":
    main(sys.argv[1:])
