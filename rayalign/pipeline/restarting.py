"""Stages that go on by themselves after they lost a process that trains, or after a guard sent them back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rayalign.config import TrainStage
from rayalign.coordinator.online import Parts
from rayalign.coordinator.recovery import Resumption, recover, restore
from rayalign.coordinator.stepping import in_thread
from rayalign.coordinator.window import Window
from rayalign.errors import ActorError, LostError, RollbackError
from rayalign.pipeline.context import RunContext

T = TypeVar("T")
logger = logging.getLogger(__name__)
BESIDES = 600.0
"""seconds of a wait for machines beside `cluster.scale_timeout`: for those that are gone, and for folders"""


class Restarts:
    """How often one stage starts again from its last checkpoint, within what the job allows."""

    def __init__(self, context: RunContext, stage: str) -> None:
        self._context, self._stage = context, stage
        self._left = context.job.cluster.restarts
        self._failed = False
        """whether it has failed once without a loss"""

    def count(self, error: ActorError) -> None:
        """Count and announce the restart that an error calls for: after a loss always, after another error once.

        Raises:
            ActorError: no further one is allowed; the message begins with the reason.
        """
        lost = isinstance(error, LostError)
        reason, *details = str(error).splitlines()
        if not self._left and lost:
            remedy = "the same command goes on from the last checkpoint, and cluster.restarts lets the run do so"
            raise LostError("\n".join([f"{reason}; {remedy}", *details])) from error
        if not self._left or (self._failed and not lost):
            raise error
        self._failed = self._failed or not lost
        self._left -= 1
        self._context.events.write("stage_restarted", stage=self._stage, reason=reason, left=self._left)
        logger.warning("%s", error)
        logger.warning("%s goes on from its last checkpoint; %d more restarts may follow", self._stage, self._left)

    def await_machines(self, *, whole: bool = True) -> None:
        """Wait until Ray counts out machines that are gone, and the cluster has what the stage needs, or cannot get it.

        Args:
            whole: False where the stage goes on with fewer ranks.
        """
        if self._context.machines is not None:
            self._context.machines.await_again(self._stage, whole=whole)


async def with_restarts(context: RunContext, name: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """The outcome of the first attempt that comes to its end; each one goes on from the last checkpoint.

    Raises:
        LostError: of the attempt after the last restart that `cluster.restarts` allows.
        ActorError: an actor failed by itself; it is not tried again, since a new process would fail as well.
    """
    restarts = Restarts(context, name)
    while True:
        try:
            return await attempt()
        except RollbackError as error:  # the guards count these
            logger.warning("%s", error)
        except LostError as error:
            restarts.count(error)
        context.stop_broken_pool()
        # A daemon thread, which Ctrl-C does not wait for.
        await in_thread(restarts.await_machines, context.job.cluster.scale_timeout + BESIDES)


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
