"""The logical devices of a miniature: as many as its plan has, as full as those of the job."""

from __future__ import annotations

from typing import Any

from rayalign.cluster.turns import TURNS
from rayalign.config import Job
from rayalign.pipeline.kind import kinds_of
from rayalign.pipeline.plan import StagePlan, plan

UNLIMITED = 1 << 20
"""devices of the plan that shows how many a job needs"""


def fold_devices(job: Job, small: Job) -> dict[str, Any]:
    """The keys of `cluster` for the small job; no logical devices where the job uses none.

    A shared device has the share of free memory that it has in the job: what does not fit there does not fit here.
    """
    planned = plan(_on_logical(small, UNLIMITED, 1 << 50)).stages
    count = max(stage.devices for stage in planned)
    if not count:
        return {"gpus": None, "logical_devices": None}
    capacity = 1 << 30
    fullest = max((_fullest(stage) for stage in planned if stage.shared), default=0)
    if fullest:
        full_size = max((_fullest(stage) for stage in plan(job).stages if stage.shared), default=0)
        room = job.cluster.device_bytes / full_size if full_size else 1.0
        capacity = int(fullest * max(1.0, room))
    return {"gpus": None, "logical_devices": {"count": count, "bytes": capacity}}


def uses_gpus(job: Job) -> bool:
    """Whether any engine or role of the job has a GPU."""
    gpus = [job.rollout.gpus]
    for kind in kinds_of(job).values():
        gpus += [need.host.gpus for need in kind.roles(job)]
    return any(gpus)


def _on_logical(job: Job, count: int, capacity: int) -> Job:
    cluster = job.cluster.model_dump(mode="json")
    cluster.update({"gpus": None, "logical_devices": {"count": count, "bytes": capacity}})
    return Job.model_validate({**job.model_dump(mode="json"), "cluster": cluster})


def _fullest(stage: StagePlan) -> int:
    """What the fullest shared device holds in the fullest turn [bytes]."""
    claims = [0]
    for turn in TURNS:
        claims += stage.turn_memory(turn).values()
    return max(claims)
