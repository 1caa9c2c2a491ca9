"""The adapters of a job: what its engines must have room for."""

from __future__ import annotations

import logging

from rayalign.config import Job, LoraConfig
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.needs import GENERATOR
from rayalign.rollout import EngineName, choose_adapter

logger = logging.getLogger(__name__)


def adapter_room(job: Job, engine: EngineName) -> LoraConfig | None:
    """The largest adapter that the engines of a run must take; None where there is none, or where they get it merged.

    Raises:
        InputError: the job wants adapters beside their base, which the engine cannot do.
    """
    adapters = _published_adapters(job)
    if not adapters:
        return None
    form, reason = choose_adapter(job.rollout, engine)
    logger.info("adapters reach the engines %s (%s)", form, reason)
    if form == "merged":
        return None
    targets: set[str] = set()
    for adapter in adapters:
        targets |= set(adapter.targets)
    return LoraConfig(rank=max(adapter.rank for adapter in adapters), targets=tuple(sorted(targets)))


def _published_adapters(job: Job) -> list[LoraConfig]:
    """The adapters of all policies that write their own candidates."""
    adapters = []
    for stage in job.stages.values():
        needs = {need.role: need for need in kind_of(stage).roles(job)}
        policy = needs.get("policy")
        if GENERATOR in needs and policy is not None and policy.trained and policy.learner.lora is not None:
            adapters.append(policy.learner.lora)
    return adapters
