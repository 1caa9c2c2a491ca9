"""How long the rest of a run will take, from the stages that have finished."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rayalign.config import Job
from rayalign.pipeline.kind import StageKind, kind_of
from rayalign.pipeline.outputs import stage_folder
from rayalign.storage.console import Later
from rayalign.storage.summary import read_done


def later_stages(job: Job, later: Sequence[StageKind[Any]]) -> Later:
    """Each later stage takes as long as its likes have taken on average: its kind, with or without engines.

    Results of an earlier, different job count too.
    """
    seconds_by_likes: dict[tuple[str, bool], list[float]] = {}
    for name, stage in job.stages.items():
        outcome = read_done(stage_folder(job, name)) or {}
        if outcome.get("seconds") is not None:
            seconds_by_likes.setdefault(_likes(job, kind_of(stage)), []).append(outcome["seconds"])
    total, is_whole = 0.0, True
    for kind in later:
        seconds = seconds_by_likes.get(_likes(job, kind))
        if seconds:
            total += fmean(seconds)
        else:
            is_whole = False
    return Later(total, is_whole)


def _likes(job: Job, kind: StageKind[Any]) -> tuple[str, bool]:
    return kind.stage.kind, kind.uses_pool(job)
