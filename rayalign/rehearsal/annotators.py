"""The annotator service of a miniature, where the job's own is elsewhere or its judges are paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rayalign.annotator.api import POOL
from rayalign.annotator.service_file import load_service
from rayalign.config import Job
from rayalign.pipeline.kind import kinds_of


def annotator_names(job: Job) -> list[str]:
    """The annotators that stages ask, each once."""
    names: dict[str, None] = {}
    for kind in kinds_of(job).values():
        for read in kind.annotators():
            names[read.name] = None
    return list(names)


def needs_stand_in(job: Job) -> bool:
    """Whether the job's annotators cannot judge here: they are elsewhere, or more than the embedded world's rubric."""
    if not annotator_names(job):
        return False
    if job.annotator.url is not None:
        return True
    config = load_service(Path(job.annotator.file) if job.annotator.file else None)
    return any(annotator.judge.kind != "rubric" for annotator in config.annotators.values())


def write_stand_in_service(names: list[str], model: str, context: int, file: Path) -> None:
    """A service whose annotators all score by one small reward model."""
    judge = {"kind": "reward_model", "model": model, "cpus": 0.01, "context": context}
    named: dict[str, Any] = {name: {"judge": judge} for name in names if name != POOL}
    annotators = named or {"stand_in": {"judge": judge}}
    file.write_text(yaml.safe_dump({"annotators": annotators}, sort_keys=False), encoding="utf-8")
