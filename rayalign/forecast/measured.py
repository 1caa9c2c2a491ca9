"""What a finished run measured: the median seconds of each phase of its iterations, and the lengths of its samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rayalign.config import Job, LoadedJob, TrainStage, load_job
from rayalign.errors import InputError
from rayalign.forecast.iteration import Lengths, draws_from_engines
from rayalign.pipeline.kind import trainings_of
from rayalign.pipeline.train import TrainKind

WARM_UP = 2
"""iterations that do not count: what is made at the first use"""
FEWEST = 3
"""iterations that a median is taken of"""
OTHER = ("collate", "prepare", "journal", "unattributed")
MEASURED = ("generate", "evaluate", "update", "publish", "turn")


@dataclass(frozen=True, slots=True)
class MeasuredStage:
    """An online training that has run."""

    name: str
    stage: TrainStage
    seconds: Mapping[str, float]
    """phase -> median"""
    iteration: float
    """median seconds of a whole iteration, checkpoints apart"""
    iterations: int
    """how many the medians are of"""
    lengths: Lengths


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run with iterations to learn from."""

    loaded: LoadedJob
    stages: tuple[MeasuredStage, ...]
    peak_memory: int | None
    """main memory of all its processes [bytes]"""

    @property
    def job(self) -> Job:
        """The job as it ran."""
        return self.loaded.job


def measured_run(folder: Path) -> MeasuredRun:
    """Read a run.

    Raises:
        InputError: it is no run, or none of its stages has enough iterations.
    """
    file = folder / "job.yaml"
    if not file.is_file():
        raise InputError(
            f"{folder}: there is no job.yaml, so this is no run; name the folder of a run, as runs/quickstart"
        )
    loaded = load_job(file)
    stages = tuple(_stages(loaded.job, folder))
    if not stages:
        raise InputError(
            f"{folder}: no online training in it has {WARM_UP + FEWEST} iterations or more; calibrate on a run that has"
        )
    summary = folder / "summary.json"
    peak = _read(summary).get("peak_memory_bytes") if summary.is_file() else None
    return MeasuredRun(loaded, stages, peak)


def _stages(job: Job, folder: Path) -> Iterator[MeasuredStage]:
    for name, training in trainings_of(job).items():
        metrics = folder / "stages" / name / "metrics.jsonl"
        if training.stage.online and metrics.is_file():
            rows = _iterations(metrics)
            if len(rows) >= FEWEST:
                yield _stage(name, training, rows)


def _iterations(metrics: Path) -> list[Mapping[str, float]]:
    """The metrics of each iteration after the warm-up."""
    rows = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)["metrics"]
        if "phase/total" in row and "learner/tokens" in row:
            rows.append(row)
    return rows[WARM_UP:]


def _stage(name: str, kind: TrainKind, rows: list[Mapping[str, float]]) -> MeasuredStage:
    def typical(key: str) -> float:
        return median(row.get(key, 0.0) for row in rows)

    seconds = {phase: typical(f"phase/{phase}") for phase in MEASURED}
    seconds["other"] = sum(typical(f"phase/{phase}") for phase in OTHER)
    iteration = median(row["phase/total"] - row.get("phase/checkpoint", 0.0) for row in rows)
    lengths = _lengths(kind, typical("rollout/tokens"), typical("learner/tokens"))
    return MeasuredStage(name, kind.stage, seconds, iteration, len(rows), lengths)


def _lengths(kind: TrainKind, written: float, learned: float) -> Lengths:
    """Mean prompt and answer, from the tokens that engines wrote and those that the policy learned from.

    Another trained role has tokens of its own name, so they are not among these.
    """
    stage = kind.stage
    samples = stage.prompts * stage.candidates_per_prompt
    answer = written / (stage.prompts * draws_from_engines(stage))
    total = learned / (samples * kind.algorithm.passes)
    return Lengths(max(total - answer, 0.0), answer)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
