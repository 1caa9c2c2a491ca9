"""How many rows a stage reads or writes, as far as that is known before the run."""

from __future__ import annotations

from rayalign.algorithms.base import load
from rayalign.config import (
    AnnotateStage,
    DataConfig,
    EvaluateStage,
    GenerateStage,
    Job,
    PretrainStage,
    Reference,
    TrainStage,
)
from rayalign.data import readers
from rayalign.data.files import is_hub_name
from rayalign.errors import InputError
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.stage_rows import stage_paths


def rows_read(job: Job, name: str) -> int | None:
    """Rows that a stage reads; None where only the run will show it.

    A limit counts as that many rows, so that large data need not be read.
    """
    stage = job.stages[name]
    examples = getattr(stage, "examples", None)
    if isinstance(examples, str):
        reference = Reference.parse(examples)
        return rows_written(job, reference.stage) if reference else None
    kind = kind_of(stage)
    if kind.data is None or kind.data_use is None:
        return None
    if kind.data.limit is not None:
        return kind.data.limit
    if any(stage_paths(kind.data)) or not is_at_hand(kind.data):
        return None
    try:
        return sum(1 for _ in readers.stream_examples(kind.data, seed=job.seed, use=kind.data_use))
    except InputError:  # `check` reports it; a forecast goes without the number
        return None


def rows_written(job: Job, name: str) -> int | None:
    """Rows that a stage makes for later ones."""
    stage = job.stages[name]
    rows = rows_read(job, name)
    if rows is not None and isinstance(stage, AnnotateStage):
        return rows * stage.pairs
    return rows


def optimizer_steps(job: Job, name: str) -> int | None:
    """Steps of an offline training, at most; None where its rows are not known."""
    stage = job.stages[name]
    assert isinstance(stage, TrainStage | PretrainStage), "only a training has steps"
    if isinstance(stage, TrainStage) and stage.steps:
        return stage.steps
    rows = rows_read(job, name)
    if rows is None:
        return None
    if isinstance(stage, TrainStage):
        sequences = 2 if load(stage.algorithm).unit == "pair" else 1
        rows = int(rows * (1 - stage.holdout)) * sequences
    return stage.epochs * max(1, rows // stage.learner.minibatch)


def answers_written(job: Job, name: str) -> int | None:
    """Answers that the engines write in a generate or evaluate stage."""
    stage = job.stages[name]
    rows = rows_read(job, name)
    if rows is None:
        return None
    if isinstance(stage, GenerateStage):
        return rows * stage.count * (stage.best_of.n if stage.best_of else 1)
    if isinstance(stage, EvaluateStage):
        return rows * sum(stage.best_of[model].n if model in stage.best_of else 1 for model in stage.names)
    return None


def is_at_hand(data: DataConfig) -> bool:
    """Whether its rows are on this machine."""
    paths = [source.path for source in data.blend] if data.blend else [data.path]
    return not any(path is not None and is_hub_name(path) for path in paths)
