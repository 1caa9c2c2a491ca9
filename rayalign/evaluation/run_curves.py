"""The learning curves of several runs in the same charts; runs that differ in their seed alone make one curve.

job.yaml of each run -> runs of one job -> for each stage the mean of each step, and the range over seeds
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rayalign.errors import InputError
from rayalign.evaluation.run_tables import run_names
from rayalign.storage.records import dumps
from rayalign.storage.report_curves import stage_metrics
from rayalign.storage.report_plots import Range

Row = dict[str, Any]
Job = Mapping[str, Any]
SEED_FIELDS = ("name", "seed")
"""fields in which runs of one job over seeds differ"""


class RunCurves(NamedTuple):
    """What the charts of several runs show, by the label of each curve."""

    metrics: Mapping[str, Sequence[Row]]
    """rows {step, metrics}; the means where a curve is over seeds"""
    kinds: Mapping[str, str]
    """the kind of the stage"""
    ranges: Mapping[str, Mapping[str, Sequence[Range]]]
    """for each metric the lowest and highest values over seeds"""


def run_job(run: Path) -> Job:
    """The resolved job of a run.

    Raises:
        InputError: the folder is no run's.
    """
    path = run / "job.yaml"
    if not path.is_file():
        raise InputError(f"{run}: there is no job.yaml of a run; name the folders of runs")
    job: Job = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return job


def seed_groups(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """The runs of each job: those whose jobs differ in name and seed alone belong together."""
    by_content: dict[str, dict[str, Path]] = {}
    for name, run in run_names(runs).items():
        job = {field: value for field, value in run_job(run).items() if field not in SEED_FIELDS}
        by_content.setdefault(dumps(job), {})[name] = run
    groups: dict[str, list[Path]] = {}
    for members in by_content.values():
        groups[_group_name(list(members), groups)] = list(members.values())
    return groups


def run_curves(runs: Sequence[Path]) -> RunCurves:
    """The curves of all stages of the runs."""
    metrics: dict[str, Sequence[Row]] = {}
    kinds: dict[str, str] = {}
    ranges: dict[str, dict[str, Sequence[Range]]] = {}
    for group, members in seed_groups(runs).items():
        for stage, section in run_job(members[0])["stages"].items():
            rows_of_runs = _rows_of_runs(members, stage)
            if not rows_of_runs:
                continue
            label = f"{group}: {stage}"
            kinds[label] = section["kind"]
            metrics[label] = _mean_rows(rows_of_runs)
            for metric, rows in _ranges(rows_of_runs).items():
                ranges.setdefault(metric, {})[label] = rows
    return RunCurves(metrics, kinds, ranges)


def _group_name(names: Sequence[str], others: Mapping[str, Any]) -> str:
    """What the names of the runs begin with, such as `study` of `study-seed0` and `study-seed1`."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(list(names)).rstrip("0123456789")
    stem = start.removesuffix("seed").rstrip("-_ .")
    name = f"{stem or names[0]} over {len(names)} seeds"
    return name if name not in others else f"{name}, {names[0]}"


def _rows_of_runs(runs: Sequence[Path], stage: str) -> list[dict[int, Row]]:
    """For each run that has metrics of the stage, the metrics of each step."""
    rows_of_runs: list[dict[int, Row]] = []
    for run in runs:
        folder = run / "stages" / stage
        if (folder / "metrics.jsonl").is_file():
            rows_of_runs.append({row["step"]: row["metrics"] for row in stage_metrics(folder)})
    return rows_of_runs


def _mean_rows(rows_of_runs: Sequence[Mapping[int, Row]]) -> list[Row]:
    rows = []
    for step in _shared_steps(rows_of_runs):
        means = {metric: statistics.fmean(values) for metric, values in _values_at(rows_of_runs, step).items()}
        rows.append({"step": step, "metrics": means})
    return rows


def _ranges(rows_of_runs: Sequence[Mapping[int, Row]]) -> dict[str, list[Range]]:
    """The range of each metric over runs; none of a single run."""
    ranges: dict[str, list[Range]] = {}
    if len(rows_of_runs) == 1:
        return ranges
    for step in _shared_steps(rows_of_runs):
        for metric, values in _values_at(rows_of_runs, step).items():
            ranges.setdefault(metric, []).append((step, min(values), max(values)))
    return ranges


def _shared_steps(rows_of_runs: Sequence[Mapping[int, Row]]) -> list[int]:
    """The steps that all runs have; beyond them, a mean would jump where a run ends."""
    first, *others = rows_of_runs
    return [step for step in first if all(step in rows for rows in others)]


def _values_at(rows_of_runs: Sequence[Mapping[int, Row]], step: int) -> dict[str, list[float]]:
    """The values of each metric that all runs have at the step."""
    first, *others = [rows[step] for rows in rows_of_runs]
    values: dict[str, list[float]] = {}
    for metric, value in first.items():
        own = [value, *(metrics.get(metric) for metrics in others)]
        if None not in own:
            values[metric] = own
    return values
