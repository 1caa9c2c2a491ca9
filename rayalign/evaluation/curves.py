"""Training stages of finished runs as curves: reward against KL, and the proxy against gold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.data.paddock import gold
from rayalign.errors import InputError
from rayalign.evaluation.frontier import FrontierPoint, OverOptimisation, frontier, overoptimisation
from rayalign.storage.journal import Journal
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import decode
from rayalign.storage.summary import read_done
from rayalign.types import Group

Window = tuple[int, ...]
"""iterations in order"""
_WINDOWS = 8
"""points of a stage, each over four or more iterations where there are so many"""
_KL, _REWARD = "kl/reference", "reward/mean"


class Curve(NamedTuple):
    """One online training stage, cut into windows of iterations."""

    name: str
    """run/stage"""
    steps: tuple[Window, ...]
    metrics: dict[int, Mapping[str, float]]
    """of each iteration"""
    gold: OverOptimisation | None
    """the proxy and the gold utility of the answers trained on, over the windows' last iterations; None where no prompt
    is the embedded world's or the stage has not finished"""


class TrainedGroup(NamedTuple):
    """The answers to one prompt that were trained on."""

    iteration: int
    proxy: float
    """the mean score"""
    gold: float
    """the mean gold utility"""


def curves(run: Path) -> list[Curve]:
    """Every stage whose metrics have reward and KL.

    Raises:
        InputError: no run folder, or none of its stages has both.
    """
    stages = [_curve(run, path) for path in sorted(run.glob("stages/*/metrics.jsonl"))]
    with_both = [curve for curve in stages if curve is not None]
    if not with_both:
        raise InputError(
            f"{run}: no stage with {_REWARD} and {_KL} in its metrics; name the folder of a run that trains online "
            "with a KL coefficient above 0"
        )
    return with_both


def points(curves: Sequence[Curve]) -> list[FrontierPoint]:
    """Every window of every curve, with intervals over its iterations."""
    names: list[str] = []
    kl_rows: list[list[float]] = []
    reward_rows: list[list[float]] = []
    for curve in curves:
        for steps in curve.steps:
            names.append(f"{curve.name} {steps[0]}-{steps[-1]}")
            kl_rows.append([curve.metrics[step][_KL] for step in steps])
            reward_rows.append([curve.metrics[step][_REWARD] for step in steps])
    return frontier(names, padded(kl_rows), padded(reward_rows))


def _curve(run: Path, metrics_path: Path) -> Curve | None:
    """One stage; None without reward and KL."""
    latest = {row["step"]: row["metrics"] for row in read_metrics(metrics_path)}
    metrics = {step: row for step, row in latest.items() if _has_both(row)}
    if len(metrics) < 2:
        return None
    stage = metrics_path.parent
    windows = np.array_split(list(metrics), min(_WINDOWS, max(2, len(metrics) // 4)))
    steps = tuple(tuple(window.tolist()) for window in windows)
    journal = run / "journal" / f"{stage.name}.jsonl"
    finished = read_done(stage) and journal.exists()
    truth = _overoptimised(journal, steps) if finished else None
    return Curve(f"{run.resolve().name}/{stage.name}", steps, metrics, truth)


def _has_both(metrics: Mapping[str, float | None]) -> bool:
    return metrics.get(_KL) is not None and metrics.get(_REWARD) is not None


def _overoptimised(path: Path, windows: Sequence[Window]) -> OverOptimisation | None:
    """Each window's groups are its sample; those of different windows are independent, whatever their order."""
    groups: list[list[TrainedGroup]] = [[] for _ in windows]
    window_of_step: dict[int, int] = {}
    for index, window in enumerate(windows):
        window_of_step |= dict.fromkeys(window, index)
    with closing(Journal(path)) as journal:
        for group in trained_groups(journal):
            if group.iteration in window_of_step:
                groups[window_of_step[group.iteration]].append(group)
    if not all(groups):
        return None
    proxy_rows, gold_rows = [], []
    for sample in groups:
        proxy_rows.append([group.proxy for group in sample])
        gold_rows.append([group.gold for group in sample])
    last_steps = [window[-1] for window in windows]
    return overoptimisation(last_steps, padded(proxy_rows), padded(gold_rows))


def trained_groups(journal: Journal) -> Iterator[TrainedGroup]:
    """Each group of the embedded world that was trained on, with its mean score and mean gold utility."""
    golds: dict[str, float] = {}
    proxies: dict[str, float] = {}
    for entry in journal.replay(effective=True):
        if entry["kind"] == "finished":
            group = decode(Group, entry["group"], str(journal.path))
            if "task" in group.prompt.meta:
                golds[group.id] = _mean_gold(group)
        elif entry["kind"] == "scored":
            scores = _present_scores(entry["scores"])
            if scores:
                proxies[entry["group"]] = mean(scores)
        elif entry["kind"] == "consumed":
            for name in entry["groups"]:
                if name in golds and name in proxies:
                    yield TrainedGroup(entry["iteration"], proxies.pop(name), golds.pop(name))


def gold_by_iteration(path: Path) -> dict[int, float]:
    """The mean gold utility of the answers that each iteration trained on; empty outside the embedded world.

    Args:
        path: the stage's journal.
    """
    golds: dict[int, list[float]] = {}
    with closing(Journal(path)) as journal:
        for group in trained_groups(journal):
            golds.setdefault(group.iteration, []).append(group.gold)
    return {iteration: mean(values) for iteration, values in golds.items()}


def _mean_gold(group: Group) -> float:
    return mean(gold.utility(group.prompt, trajectory.text) for trajectory in group.trajectories)


def _present_scores(scores: Iterable[Mapping[str, float | None]]) -> list[float]:
    values = [score["value"] for score in scores]
    return [value for value in values if value is not None]


def padded(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Rows of different lengths as a table, with NaN behind their ends."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = row
    return table
