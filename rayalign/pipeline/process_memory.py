"""The main memory of a run's processes themselves, beside their models and batches: interpreters, libraries, Ray.

    driver    the run's own process            Ray       its daemons and agents on this machine
    forks     the process that workers fork    service   the annotator's replicas on Ray Serve
    workers   one for each actor of a role     engines   one for each engine of the pool

Sums of proportional set sizes: a page that several processes share counts once. On a machine without a GPU workers are
forks and share their libraries; with one, and on a cluster, each loads its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayalign.config import Job
from rayalign.pipeline.kind import StageKind, kinds_of, shape_in
from rayalign.pipeline.machine import this_machine
from rayalign.pipeline.needs import GENERATOR, RoleNeed
from rayalign.rollout import choose, vllm_runs_on

MIB = 1 << 20
DRIVER = 420 * MIB
RAY = 340 * MIB
FORKS = 110 * MIB
SERVICE = 400 * MIB
WORKER = 190 * MIB
"""a fork that shares its libraries"""
LONE_WORKER = 400 * MIB
"""a process with libraries of its own"""
LOCAL_ENGINE = 170 * MIB
VLLM_ENGINE = 480 * MIB
"""without its cache, which the job sizes"""
PREPARERS = 1
"""workers of an online stage beside those of its roles"""


def process_memory(job: Job, kind: StageKind[Any]) -> int:
    """What the processes of a stage take before they hold a model [bytes].

    The annotator's service is among them from the first stage on, where the run starts it.
    """
    needs = kind.roles(job)
    total = DRIVER
    asks = any(stage.annotators() for stage in kinds_of(job).values())
    if needs or asks:
        total += RAY
    if asks and job.annotator.url is None:
        total += SERVICE
    if not needs:
        return total
    shares_libraries = not this_machine().gpus and job.cluster.address is None
    worker = WORKER if shares_libraries else LONE_WORKER
    total += FORKS if shares_libraries else 0
    for need in needs:
        if need.role == GENERATOR:
            total += need.host.actors * _engine(job, need)
        elif need.within is None:
            total += need.host.actors * worker
    return total + (PREPARERS * worker if _is_online(needs) else 0)


def _engine(job: Job, need: RoleNeed) -> int:
    shape = shape_in(job, need.model)
    parameters = shape.parameters if shape else None
    name, _ = choose(job.rollout, vllm_runs_on(), parameters)
    return LOCAL_ENGINE if name == "local" else VLLM_ENGINE * job.rollout.tensor_parallel


def _is_online(needs: Sequence[RoleNeed]) -> bool:
    """Whether engines write while a role is trained."""
    roles = {need.role for need in needs}
    return GENERATOR in roles and any(need.trained for need in needs)
