"""Candidates to groups: the one place above the pool where the candidates of a prompt come together.

    order -> one request for each candidate -> pool -> finished turn -> environment -> candidate complete
                                                ^                            |                 |
                                                +---- next turn, same key ---+                 v
                                                                    group, once its last candidate has ended

`run` waits for the pool and hands each finished group to `settle`; an environment's steps run beside it, in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rayalign.cluster.pool import GeneratorPool
from rayalign.coordinator.dialogues import Dialogue, Limits
from rayalign.coordinator.failures import raise_first
from rayalign.coordinator.rendering import Draw, Renderer
from rayalign.coordinator.stepping import in_thread
from rayalign.errors import DeadlineError, InputError
from rayalign.rollout.base import Request
from rayalign.rollout.environment import EnvironmentKind, Reply
from rayalign.types import Absence, Candidate, Group, Prompt, Trajectory

logger = logging.getLogger(__name__)
STEP_SHARE = 4
"""steps of an environment that must fit into the deadline of a whole group"""
FEWEST = 2
"""candidates that a group must have, where so many are written: methods compare within a group"""


@dataclass(frozen=True, slots=True)
class GroupOrder:
    """A group to be made: the prompt, and one seed for each candidate that the policy writes."""

    group_id: str
    prompt: Prompt
    seeds: tuple[int, ...]
    draws: tuple[Draw, ...] = ()
    """how each of these is drawn; empty: all by the renderer's sampling"""
    iteration: int = 0
    dataset: tuple[Candidate, ...] = ()
    """answers of the data set, which come after the written ones"""


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A whole group, or the reason why there is none."""

    group_id: str
    group: Group | None
    failure: str | None = None


Settle = Callable[[GroupResult], Awaitable[None]]


@dataclass(slots=True)
class _OpenGroup:
    """A group with candidates that have not ended."""

    order: GroupOrder
    keys: tuple[str, ...]
    """of its candidates"""
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    """index -> complete candidate"""
    absent: dict[int, str] = field(default_factory=dict)
    """index -> why there is none"""

    @property
    def complete(self) -> bool:
        return len(self.trajectories) + len(self.absent) == len(self.order.seeds)


class GroupAssembler:
    """Orders in, groups out, over the engines of one pool."""

    def __init__(
        self,
        pool: GeneratorPool,
        renderer: Renderer,
        *,
        timeout: float,
        environment: EnvironmentKind | None = None,
        max_turns: int = 1,
    ) -> None:
        """
        Args:
            timeout: seconds within which `generate` must see a next group finish; an environment's step has a quarter.
            environment: made for each candidate; None: every candidate is complete with its first turn.
            max_turns: of the policy in one candidate.
        """
        self._pool = pool
        pool.tokenizer = renderer.model
        self._renderer = renderer
        self._timeout = timeout
        self._environment = environment
        self._limits = Limits(renderer.context, max_turns)
        self._open: dict[str, _OpenGroup] = {}
        self._dialogues: dict[str, Dialogue] = {}
        """key of a candidate that has not ended -> what there is of it"""
        self._next_turns: list[Request] = []

    @property
    def pending(self) -> int:
        """Groups submitted and not finished."""
        return len(self._open)

    def writes_for(self, iteration: int) -> bool:
        """Whether a group of this iteration is submitted and not finished."""
        return any(group.order.iteration == iteration for group in self._open.values())

    async def submit(self, orders: Sequence[GroupOrder]) -> None:
        """Send the first turns of all candidates of all orders to the pool."""
        requests: list[Request] = []
        for order in orders:
            own = self._renderer.requests(order.group_id, order.prompt, order.seeds, order.draws)
            self._open[order.group_id] = _OpenGroup(order, tuple(request.key for request in own))
            for index, request in enumerate(own):
                self._dialogues[request.key] = Dialogue.begin(order.group_id, index, order.prompt, request)
            requests += own
        await self._pool.submit(requests)

    async def abandon(self, group_ids: Iterable[str]) -> None:
        """Give up groups, which never come; those that are finished are ignored."""
        keys: set[str] = set()
        for group_id in group_ids:
            group = self._open.pop(group_id, None)
            if group is not None:
                keys.update(group.keys)
        for key in keys:
            self._dialogues.pop(key, None)
        await self._pool.abort(keys)

    async def run(self, settle: Settle) -> None:
        """Hand groups to `settle` as they finish, until cancelled."""
        async with asyncio.TaskGroup() as steps, aclosing(self._pool.finished()) as stream:
            async for turn in stream:
                dialogue = self._dialogues.get(turn.key)
                if dialogue is None:
                    continue  # of a group that was given up
                if turn.failure is not None:
                    await self._drop(dialogue, turn.failure, settle)
                    continue
                text = turn.text if turn.text is not None else self._renderer.decode(turn.tokens)
                dialogue.write(turn, text)
                if self._environment is None:
                    await self._complete(dialogue, settle)
                else:
                    steps.create_task(self._go_on(dialogue, settle))

    async def generate(
        self, orders: Sequence[GroupOrder], keep: Callable[[GroupResult], None] | None = None
    ) -> list[GroupResult]:
        """Make all groups and return them in the order of `orders`.

        Args:
            keep: sees each result as it comes.

        Raises:
            DeadlineError: no group finished within the deadline of a call.
        """
        results: asyncio.Queue[GroupResult] = asyncio.Queue()
        by_id: dict[str, GroupResult] = {}
        await self.submit(orders)
        running = asyncio.ensure_future(self.run(results.put))
        try:
            while len(by_id) < len(orders):
                result = await self._next(results, running)
                if keep is not None:
                    keep(result)
                by_id[result.group_id] = result
        finally:
            running.cancel()
            await asyncio.wait([running])
        return [by_id[order.group_id] for order in orders]

    async def _next(self, results: asyncio.Queue[GroupResult], running: asyncio.Future[None]) -> GroupResult:
        arrival = asyncio.ensure_future(results.get())
        waits: list[asyncio.Future[Any]] = [arrival, running]
        await asyncio.wait(waits, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        if arrival.done():
            return arrival.result()
        arrival.cancel()
        if running.done():
            raise_first([running.exception()])
        raise DeadlineError(
            f"{self.pending} groups are on the engines, and none finished within {self._timeout:.0f} s; "
            "an engine is stuck or too slow: see its log, or raise cluster.call_timeout"
        )

    async def _go_on(self, dialogue: Dialogue, settle: Settle) -> None:
        """The environment's step, and what follows from it."""
        (outcome,) = await asyncio.gather(
            in_thread(lambda: self._step(dialogue), self._timeout / STEP_SHARE), return_exceptions=True
        )
        if dialogue.request.key not in self._dialogues:
            return
        if isinstance(outcome, Exception):
            reason = f"the environment failed with {type(outcome).__name__}: {outcome}"
            await self._drop(dialogue, reason, settle)
            return
        if isinstance(outcome, BaseException):
            raise outcome
        request = dialogue.reply(outcome, self._limits)
        if request is None:
            await self._complete(dialogue, settle)
        else:
            await self._submit_turn(request)

    def _step(self, dialogue: Dialogue) -> Reply:
        if dialogue.environment is None:
            assert self._environment is not None
            dialogue.environment = self._environment(dialogue.prompt, self._renderer.turns)
        reply = dialogue.environment.step(dialogue.trajectory)
        if not isinstance(reply, Reply):
            raise InputError(f"step returned a {type(reply).__name__}; return a rayalign.rollout.environment.Reply")
        return reply

    async def _submit_turn(self, request: Request) -> None:
        """Submit a next turn, in one call with all others that are ready now."""
        self._next_turns.append(request)
        await asyncio.sleep(0)
        requests = [request for request in self._next_turns if request.key in self._dialogues]
        self._next_turns = []
        if requests:
            await self._pool.submit(requests)

    async def _complete(self, dialogue: Dialogue, settle: Settle) -> None:
        trajectory = dialogue.trajectory
        group = self._open[trajectory.group_id]
        group.trajectories[trajectory.index] = trajectory
        await self._end(dialogue, group, settle)

    async def _drop(self, dialogue: Dialogue, reason: str, settle: Settle) -> None:
        logger.warning("candidate %s is absent: %s", dialogue.request.key, reason)
        group = self._open[dialogue.trajectory.group_id]
        group.absent[dialogue.trajectory.index] = reason
        await self._end(dialogue, group, settle)

    async def _end(self, dialogue: Dialogue, group: _OpenGroup, settle: Settle) -> None:
        del self._dialogues[dialogue.request.key]
        if group.complete:
            del self._open[group.order.group_id]
            await settle(self._assemble(group))

    def _assemble(self, group: _OpenGroup) -> GroupResult:
        order = group.order
        if len(group.trajectories) < min(FEWEST, len(order.seeds)):
            return GroupResult(order.group_id, None, next(iter(group.absent.values())))
        trajectories = [group.trajectories[index] for index in sorted(group.trajectories)]
        for index, answer in enumerate(order.dataset, start=len(order.seeds)):
            trajectories.append(self._renderer.dataset_trajectory(order.group_id, index, order.prompt, answer))
        absent = tuple(Absence(index, group.absent[index]) for index in sorted(group.absent))
        whole = Group(order.group_id, order.prompt, order.iteration, tuple(trajectories), absent=absent)
        return GroupResult(order.group_id, whole)
