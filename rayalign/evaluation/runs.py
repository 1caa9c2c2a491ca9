"""Training stages of finished runs as curves: reward against KL, and the proxy against gold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

_WINDOWS = 8
"""points of a stage, each over four or more iterations where there are so many"""
_KL, _REWARD = "kl/reference", "reward/mean"


class Curve(NamedTuple):
    """One online training stage, cut into windows of iterations."""

    name: str
    """run/stage"""
    steps: tuple[tuple[int, ...], ...]
    """the iterations of each window"""
    metrics: dict[int, Mapping[str, float]]
    """of each iteration"""
    gold: OverOptimisation | None
    """the proxy and the gold utility of the answers trained on, over the windows' last iterations; None where the
    prompts are none of the embedded world's or the stage has not finished"""


def curves(run: Path) -> list[Curve]:
    """Every stage whose metrics have reward and KL.

    Raises:
        InputError: no run folder, or none of its stages has both.
    """
    found = []
    for path in sorted(run.glob("stages/*/metrics.jsonl")):
        rows = {row["step"]: row["metrics"] for row in read_metrics(path)}
        known = {s: m for s, m in rows.items() if m.get(_KL) is not None and m.get(_REWARD) is not None}
        if len(known) < 2:
            continue
        cut = np.array_split(list(known), min(_WINDOWS, max(2, len(known) // 4)))
        steps = tuple(tuple(map(int, window)) for window in cut)
        journal = run / "journal" / f"{path.parent.name}.jsonl"
        truth = _overoptimised(journal, steps) if read_done(path.parent) and journal.exists() else None
        found.append(Curve(f"{run.resolve().name}/{path.parent.name}", steps, known, truth))
    if not found:
        raise InputError(
            f"{run}: no stage with {_REWARD} and {_KL} in its metrics; name the folder of a run that trains online "
            "with a KL coefficient above 0"
        )
    return found


def points(found: Sequence[Curve]) -> list[FrontierPoint]:
    """Every window of every curve, with intervals over its iterations."""
    windows = [(curve, steps) for curve in found for steps in curve.steps]
    kl, reward = (
        _padded([[curve.metrics[s][metric] for s in steps] for curve, steps in windows]) for metric in (_KL, _REWARD)
    )
    return frontier([f"{curve.name} {steps[0]}-{steps[-1]}" for curve, steps in windows], kl, reward)


def _overoptimised(path: Path, steps: Sequence[Sequence[int]]) -> OverOptimisation | None:
    """Each window's groups as its sample; those of different windows are independent, whatever their order."""
    windows = {step: i for i, window in enumerate(steps) for step in window}
    pairs: list[list[tuple[float, float]]] = [[] for _ in steps]
    with closing(Journal(path)) as journal:
        for iteration, *pair in _judged(journal):
            if iteration in windows:
                pairs[windows[iteration]].append((pair[0], pair[1]))
    if not all(pairs):
        return None
    proxy, truth = (_padded([[pair[side] for pair in window] for window in pairs]) for side in (0, 1))
    return overoptimisation([window[-1] for window in steps], proxy, truth)


def _judged(journal: Journal) -> Iterator[tuple[int, float, float]]:
    """Iteration, mean score and mean gold utility of each group of the embedded world that was trained on."""
    truths: dict[str, float] = {}
    proxies: dict[str, float] = {}
    for entry in journal.replay(effective=True):
        if entry["kind"] == "finished":
            group = decode(Group, entry["group"], str(journal.path))
            if "task" in group.prompt.meta:
                truths[group.id] = mean(gold.utility(group.prompt, t.text) for t in group.trajectories)
        elif entry["kind"] == "scored":
            scores = [score["value"] for score in entry["scores"] if score["value"] is not None]
            proxies |= {entry["group"]: mean(scores)} if scores else {}
        elif entry["kind"] == "consumed":
            kept = [name for name in entry["groups"] if name in truths and name in proxies]
            yield from ((entry["iteration"], proxies.pop(name), truths.pop(name)) for name in kept)


def _padded(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Rows of different lengths as a table, with NaN behind their ends."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = row
    return table
