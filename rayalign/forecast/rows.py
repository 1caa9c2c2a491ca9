"""How many rows a stage reads or writes, as far as that is known before the run."""

from __future__ import annotations

from rayalign.config import (
    DataConfig,
    Job,
    Reference,
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
    rows = rows_read(job, name)
    return None if rows is None else kind_of(job.stages[name]).rows_made(rows)


def optimizer_steps(job: Job, name: str) -> int | None:
    """Steps of an offline training, at most; None where its rows decide and are not known."""
    kind = kind_of(job.stages[name])
    return kind.steps(None) or kind.steps(rows_read(job, name))


def answers_written(job: Job, name: str) -> int | None:
    """Answers that the engines write in a stage that draws."""
    rows = rows_read(job, name)
    return None if rows is None else kind_of(job.stages[name]).answers(rows)


def is_at_hand(data: DataConfig) -> bool:
    """Whether its rows are on this machine."""
    paths = [source.path for source in data.blend] if data.blend else [data.path]
    return not any(path is not None and is_hub_name(path) for path in paths)
