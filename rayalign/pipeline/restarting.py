"""Stages that go on by themselves after they lost an actor that trains, or after a guard sent them back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rayalign.config import TrainStage
from rayalign.coordinator.online import Parts
from rayalign.coordinator.recovery import Resumption, recover, restore
from rayalign.coordinator.window import Window
from rayalign.errors import LostError, RollbackError
from rayalign.pipeline.context import RunContext

T = TypeVar("T")
logger = logging.getLogger(__name__)


async def with_restarts(context: RunContext, name: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """The outcome of the first attempt that comes to its end; each one goes on from the last checkpoint.

    Raises:
        LostError: of the attempt after the last restart that `cluster.restarts` allows.
    """
    left = context.job.cluster.restarts
    while True:
        try:
            return await attempt()
        except RollbackError as error:  # the guards count these
            logger.warning("%s", error)
        except LostError as error:
            reason, *details = str(error).splitlines()
            if not left:
                remedy = "the same command goes on from the last checkpoint, and cluster.restarts lets the run do so"
                raise LostError("\n".join([f"{reason}; {remedy}", *details])) from error
            left -= 1
            context.events.write("stage_restarted", stage=name, reason=reason, left=left)
            logger.warning("%s", error)
            logger.warning("%s goes on from its last checkpoint; %d more restarts may follow", name, left)
        context.stop_broken_pool()


def resume(stage: TrainStage, parts: Parts) -> Resumption:
    """Where an online stage goes on; its reward and its order of prompts know again what was consumed before."""
    rollouts = parts.rollouts
    resumption = recover(
        parts.journal,
        parts.checkpoints,
        scored=rollouts.scoring is not None,
        max_staleness=stage.max_staleness,
        deterministic=stage.deterministic,
        went_back_to=parts.rollbacks.last,
        carries=Window.of(stage).carries,
    )
    if rollouts.rewards is not None or stage.priority is not None:
        restore(parts.journal, rollouts.rewards, rollouts.order)
    return resumption
