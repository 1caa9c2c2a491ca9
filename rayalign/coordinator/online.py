"""Online training: two loops over one journal.

    RolloutLoop.run   keeps the engines full and the scorers fed           (rayalign.coordinator.rollouts)
    OnlineTrainer     takes an iteration as soon as it is whole, trains on it, publishes the new weights

The training loop waits for groups (`take`) and for its actors; the rollout loop waits for `published`. What moves
through here is token records and numbers; tensors go from actor to actor by reference.

Another actor replaces a lost engine, preparer, whole reward or whole reference; what that one had kept is made again. A
lost rank of a learner or model in parts ends the loop, as a guard may: the stage starts again from its last checkpoint.

Where engines and learners share devices, the engines sleep from `take` to `published`: nothing is in flight then, since
a shared stage is strictly on-policy. The learners write their states while they have the devices, before they publish.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rayalign.actors.store import Handle
from rayalign.algorithms.base import Algorithm
from rayalign.cluster.channel import WeightChannel
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.quiet import quiet
from rayalign.cluster.roles import Roles
from rayalign.cluster.turns import DeviceTurns
from rayalign.cluster.waits import together
from rayalign.config import TrackingConfig, TrainStage
from rayalign.coordinator.failures import raise_first
from rayalign.coordinator.guards import Firing, Guards
from rayalign.coordinator.iteration import PhaseClock, part_metrics, publish_metrics, rollout_metrics
from rayalign.coordinator.passes import forward_passes
from rayalign.coordinator.recovery import Resumption, with_last_iteration
from rayalign.coordinator.rollbacks import Rollbacks, rollback_error
from rayalign.coordinator.rollouts import RolloutLoop
from rayalign.errors import GuardError, LostDataError
from rayalign.models.metrics import GRAD_NORM, of_role
from rayalign.pickling import Packed
from rayalign.storage.checkpoints import CheckpointStore, Manifest
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.metrics import MetricSink, SampleTable, reduce
from rayalign.storage.records import finite
from rayalign.types import Group, Metrics, Role

logger = logging.getLogger(__name__)
LOOK = 1.0
"""seconds between two looks at the engines while an iteration is awaited"""
ATTEMPTS = 4
"""to make one batch"""


@dataclass(slots=True)
class Parts:
    """The parts that the trainer works with; the stage that runs it makes them."""

    algorithm: Algorithm[Any]
    roles: Roles
    preparer: ActorGroup
    pool: GeneratorPool
    channel: WeightChannel
    turns: DeviceTurns
    rollouts: RolloutLoop
    journal: Journal
    checkpoints: CheckpointStore
    sink: MetricSink
    samples: SampleTable
    events: EventLog
    rollbacks: Rollbacks


class OnlineTrainer:
    """The one training loop; it does not know which algorithm it runs."""

    def __init__(self, settings: TrainStage, tracking: TrackingConfig, parts: Parts, *, seed: int, pad_id: int) -> None:
        self._settings, self._tracking = settings, tracking
        self._parts = parts
        self._seed = seed
        self._pad_id = pad_id
        self._guards = Guards(settings.guards)
        self._state: Mapping[str, float] = {}
        self._gap = math.inf
        """of the probe at the last publish [nats]"""
        self._reported = 0
        """iterations whose metrics the guards have seen"""

    async def train(self, resumption: Resumption, reported: Sequence[Mapping[str, Any]] = ()) -> None:
        """Train from where the resumption starts to the last iteration.

        Args:
            reported: the metrics of the iterations before, as rows {step, metrics}.

        Raises:
            RollbackError: a guard has sent the stage back to an earlier checkpoint.
        """
        parts = self._parts
        self._state = resumption.state
        self._guards.recall(with_last_iteration(reported, resumption, parts.sink))
        self._reported = resumption.iteration
        await self._load_state(resumption.checkpoint)
        parts.rollouts.resume(resumption.iteration, resumption.groups, resumption.serials, consumed=resumption.consumed)
        rollout = asyncio.ensure_future(parts.rollouts.run())
        training = asyncio.ensure_future(self._iterate(resumption.iteration))
        try:
            await asyncio.wait({rollout, training}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            rollout.cancel()
            training.cancel()
            outcomes = await asyncio.gather(training, rollout, return_exceptions=True)
        raise_first(outcomes)
        Accounting.of(parts.journal.replay(effective=True)).check(ended=True)

    async def _iterate(self, first: int) -> None:
        parts, settings = self._parts, self._settings
        await self._publish(first)
        end = time.perf_counter()
        for iteration in range(first, settings.iterations):
            clock = PhaseClock(parts.events, iteration, start=end)
            with clock.phase("generate"):
                groups = await self._take(iteration)
            batch, metrics = await self._batch(groups, iteration, clock)
            with clock.phase("update"):
                metrics |= await self._watched_update(batch, iteration)
            states: Path | None = None
            if parts.turns.shared:
                with clock.phase("checkpoint"):
                    states = await self._save_states(iteration + 1)
            with clock.phase("publish"):
                metrics |= await self._publish(iteration + 1)
            with clock.phase("journal"):
                self._consume(iteration, groups)
            with clock.phase("checkpoint"):
                states = states or await self._save_states(iteration + 1)
                if states is not None:
                    so_far = clock.metrics(time.perf_counter())
                    await self._commit(states, iteration + 1, self._row(iteration, groups, metrics | so_far))
            end = time.perf_counter()
            self._report(iteration, groups, self._row(iteration, groups, metrics | clock.metrics(end)))

    async def _take(self, iteration: int) -> list[Group]:
        """The groups of an iteration; engines that come while there is no other get the present weights first."""
        parts = self._parts
        taking = asyncio.ensure_future(parts.rollouts.take(iteration))
        try:
            while not taking.done():
                await asyncio.wait({taking}, timeout=LOOK)
                if parts.pool.starved:
                    await parts.channel.transfer(parts.roles["policy"], parts.pool, iteration)
            return taking.result()
        finally:
            taking.cancel()

    async def _batch(
        self, groups: Sequence[Group], iteration: int, clock: PhaseClock
    ) -> tuple[Handle, dict[str, float]]:
        """The batch of an iteration, made again where an actor was lost that had kept a part of it."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._make_batch(groups, iteration, clock)
            except LostDataError as error:
                if not left:
                    raise
                logger.warning("iteration %d: %s", iteration, error)
        raise AssertionError("the last attempt returns or raises")

    async def _make_batch(
        self, groups: Sequence[Group], iteration: int, clock: PhaseClock
    ) -> tuple[Handle, dict[str, float]]:
        turns = self._parts.turns
        with clock.phase("collate"):
            rollouts = await self._collate(Packed(groups), iteration)
        if turns.shared:
            with clock.phase("turn"):
                await turns.enter("training")
        with clock.phase("evaluate"):
            outputs = await self._evaluate(rollouts)
        with clock.phase("prepare"):
            return await self._prepare(rollouts, outputs)

    async def _collate(self, groups: Sequence[Group], iteration: int) -> Handle:
        handle: Handle = await self._parts.preparer.first(lambda a: a.collate.remote(groups, self._pad_id, iteration))
        return handle

    async def _evaluate(self, rollouts: Handle) -> dict[str, list[Handle]]:
        """The forward passes that the algorithm needs, all roles at once."""
        passes = forward_passes(self._parts.algorithm, self._settings, self._gap)
        answers = await together(*(self._forward(each.role, rollouts) for each in passes))
        return {each.field: shares for each, shares in zip(passes, answers, strict=True)}

    def _forward(self, role: Role, rollouts: Handle) -> Coroutine[Any, Any, list[Handle]]:
        """The outputs of one role, a share of each rank; a reference without actors runs in the policy's ranks."""
        roles = self._parts.roles
        if role == "reference" and role not in roles:
            return roles["policy"].all(lambda actor: actor.evaluate_reference.remote(rollouts))
        return roles[role].all(lambda actor: actor.evaluate.remote(rollouts))

    async def _prepare(self, rollouts: Handle, outputs: Mapping[str, list[Handle]]) -> tuple[Handle, dict[str, float]]:
        batch, self._state, metrics = await self._parts.preparer.first(
            lambda a: a.prepare.remote(rollouts, outputs, self._state)
        )
        return batch, reduce([metrics])

    async def _watched_update(self, batch: Handle, iteration: int) -> dict[str, float]:
        """The update; one that is not finite sends the stage back where a guard on its gradient says so."""
        try:
            return await self._update(batch, iteration)
        except GuardError as error:
            norms: list[str] = []
            trained = self._parts.algorithm.trains
            for role in trained:
                norms += of_role(role, trained, {GRAD_NORM: math.nan})
            firing = self._guards.undefined(iteration, norms, str(error).partition(";")[0])
            if firing is None:
                raise
            self._go_back(firing)

    async def _update(self, batch: Handle, iteration: int) -> dict[str, float]:
        """Every trained role on the same batch, all at once."""
        seed = self._seed + iteration
        trained = self._parts.algorithm.trains
        groups = [self._parts.roles[role] for role in trained]
        answers = await together(*(group.all(lambda a: a.update.remote(batch, seed)) for group in groups))
        steps: list[Metrics] = []
        for role, ranks in zip(trained, answers, strict=True):
            # all ranks of a role return the same metrics, merged over the ranks
            steps += [of_role(role, trained, metrics) for metrics in ranks[0]]
        return reduce(steps)

    async def _publish(self, version: int) -> dict[str, float]:
        parts = self._parts
        async with quiet(parts.pool) if self._settings.overlapping.in_flight == "wait" else nullcontext():
            transfer = await parts.channel.transfer(parts.roles["policy"], parts.pool, version)
        self._gap = transfer.gap
        await parts.rollouts.published(version)
        return publish_metrics(transfer.seconds, transfer.bytes, transfer.gap, transfer.restarted)

    def _consume(self, iteration: int, groups: Sequence[Group]) -> None:
        self._parts.journal.append({"kind": "consumed", "iteration": iteration, "groups": [g.id for g in groups]})

    async def _save_states(self, iteration: int) -> Path | None:
        """Begin a checkpoint with the learners' states, every so many iterations and at the end; its folder."""
        if iteration % self._settings.checkpoint_every and iteration != self._settings.iterations:
            return None
        parts = self._parts
        folder = parts.checkpoints.begin(iteration)
        for role in parts.algorithm.trains:
            await parts.roles[role].all(lambda a, role=role: a.save_state.remote(str(folder / role)))  # type: ignore[misc]
        return folder

    async def _commit(self, folder: Path, iteration: int, metrics: Mapping[str, float]) -> None:
        """Commit what the next iteration depends on, and the metrics of the last one, which are not reported yet."""
        parts = self._parts
        parts.journal.sync()
        manifest: Manifest = {"iteration": iteration, "journal": parts.journal.position, "state": dict(self._state)}
        manifest |= {"score": metrics.get("reward/mean"), "metrics": finite(metrics)}
        # It reads every file again for its checksum: minutes for a large model, in which the rollout loop goes on.
        is_good = self._is_good if self._guards.roll_back else None
        await asyncio.to_thread(parts.checkpoints.commit, folder, manifest, is_good)

    async def _load_state(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        for role in self._parts.algorithm.trains:
            await self._parts.roles[role].all(lambda a, role=role: a.load_state.remote(str(checkpoint / role)))  # type: ignore[misc]

    def _row(self, iteration: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of an iteration with those of its groups."""
        figures = rollout_metrics(iteration, groups, metrics["phase/total"]) | part_metrics(groups)
        return {**metrics, **figures, **self._parts.rollouts.figures(iteration)}

    def _report(self, iteration: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        self._parts.samples.write(iteration, groups[: self._tracking.samples])
        self._parts.sink.write(iteration, metrics)
        self._reported = iteration + 1
        firing = self._guards.watch(iteration, metrics)
        if firing is not None:
            self._go_back(firing)

    def _is_good(self, checkpoint: Manifest) -> bool:
        """Whether all iterations before a checkpoint were reported, and no guard speaks against the last of them."""
        iterations: int = checkpoint["iteration"]
        return iterations <= self._reported and self._guards.is_good(iterations - 1)

    def _go_back(self, firing: Firing) -> NoReturn:
        """Discard the checkpoints since the guarded metric went out of bounds; the stage starts again."""
        parts = self._parts
        parts.rollbacks.verify(firing)
        parts.rollbacks.record(
            firing, parts.checkpoints, self._is_good, unit="iteration", events=parts.events, sink=parts.sink
        )
        raise rollback_error(firing)
