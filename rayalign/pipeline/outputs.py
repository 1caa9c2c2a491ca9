"""Where a run keeps what its stages made."""

from __future__ import annotations

from pathlib import Path

from rayalign.config import Job
from rayalign.config.references import Reference
from rayalign.pipeline.kind import kind_of


def run_folder(job: Job) -> Path:
    """The folder of the whole run."""
    return (Path(job.output) / job.name).resolve()


def stage_folder(job: Job, name: str) -> Path:
    """The folder of one stage."""
    return run_folder(job) / "stages" / name


def output_path(job: Job, text: str) -> Path:
    """The file or folder of an earlier stage's output, by its name `stage:NAME`."""
    reference = Reference.parse(text)
    assert reference is not None, f"{text} names no stage"
    outputs = kind_of(job.stages[reference.stage]).outputs()
    return stage_folder(job, reference.stage) / outputs[reference.role].path
