"""Groups to scored groups: by reward actors, one task for each over one queue, or by what environments gave.

put -> queue -> score (an even share of the queue) -> every score present ------------> settle(group)
         ^                                               | absent, and asked too often -> settle(failure)
         +-------- at most `redo` times, absent ---------+

A lost actor with a whole model is replaced (`ActorGroup.steady`), and the next one scores its groups. A lost rank of a
model in parts ends the loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from rayalign.cluster.group import ActorGroup
from rayalign.cluster.replicas import Replicas
from rayalign.pickling import Packed
from rayalign.scoring.parts import is_absent, merge_scores
from rayalign.storage.events import EventLog
from rayalign.types import Group, Score

GROUPS_PER_CALL = 32
"""most groups that one call scores: what a long queue has left goes to whichever actor is free next"""
GROUPS_WORTH_A_CALL = 16
"""groups that are scored at once, though engines are still writing more"""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with all its scores, or the reason why it has none."""

    group: Group
    failure: str | None = None


Settle = Callable[[ScoredGroup], Awaitable[None]]


class Scoring(Protocol):
    """What the rollout loop hands its groups to."""

    @property
    def waiting(self) -> int:
        """Groups whose scoring has not begun."""

    def put(self, group: Group, *, others_follow: bool = False) -> None:
        """Have a group scored; `others_follow`: the same iteration waits for more, which are still written."""

    async def run(self, settle: Settle) -> None:
        """Score until cancelled."""


class EnvironmentScoring:
    """The scores are the rewards of the environment; one that it did not give is absent."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Group] = asyncio.Queue()

    @property
    def waiting(self) -> int:
        """As `Scoring.waiting`."""
        return self._queue.qsize()

    def put(self, group: Group, *, others_follow: bool = False) -> None:
        """As `Scoring.put`."""
        self._queue.put_nowait(group)

    async def run(self, settle: Settle) -> None:
        """As `Scoring.run`."""
        while True:
            group = await self._queue.get()
            rewards = [trajectory.reward for trajectory in group.trajectories]
            if None in rewards:
                await settle(ScoredGroup(group, "no score: the environment gave no reward"))
            else:
                await settle(ScoredGroup(replace(group, scores=tuple(Score(reward) for reward in rewards))))


class ScoringLoop:
    """Keeps the reward actors busy, and has failed scores computed again; the environment's rewards are added."""

    def __init__(self, reward: ActorGroup, *, redo: int, alone: bool, events: EventLog, patience: float = 0.0) -> None:
        """
        Args:
            redo: how often an absent score is requested again.
            alone: score each group by itself; in a batch with others a score may differ in its last bits.
            patience: seconds that a group may wait, while engines write, for others that are scored in the same call.
        """
        self._reward = Replicas(reward)
        self._redo = redo
        self._alone = alone
        self._patience = 0.0 if alone else patience
        self._events = events
        self._queue: asyncio.Queue[Group] = asyncio.Queue()
        self._call_is_due = asyncio.Event()
        """what waits is worth a call, or no more is awaited"""
        self._attempts: Counter[str] = Counter()
        self._partial: dict[str, tuple[Score, ...]] = {}
        """scores and parts already present of groups that are scored again"""

    @property
    def waiting(self) -> int:
        """Groups that no actor has begun with."""
        return self._queue.qsize()

    def put(self, group: Group, *, others_follow: bool = False) -> None:
        """As `Scoring.put`."""
        self._queue.put_nowait(group)
        waiting = self._queue.qsize()
        if not others_follow or waiting >= GROUPS_WORTH_A_CALL:
            self._call_is_due.set()
        elif waiting == 1:  # else a group that is due may be among those that wait
            self._call_is_due.clear()

    async def run(self, settle: Settle) -> None:
        """Score until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for replica in range(len(self._reward)):
                tasks.create_task(self._serve(replica, settle))

    async def _serve(self, replica: int, settle: Settle) -> None:
        while True:
            groups = Packed([await self._queue.get()])
            await self._wait_for_more()
            for _ in range(self._share() - 1):
                groups.append(self._queue.get_nowait())
            self._events.write("score_started", groups=[group.id for group in groups])
            answers = await self._reward.ask(replica, lambda a, groups=groups: a.score.remote(groups))  # type: ignore[misc]
            for group, scores in zip(groups, answers, strict=True):
                scored = self._merge(group, scores)
                if scored is not None:
                    await settle(scored)

    async def _wait_for_more(self) -> None:
        """Let one call score several groups, on each of which it then spends less."""
        if not self._patience:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._call_is_due.wait()

    def _share(self) -> int:
        """How many groups one call takes: an even share of what waits, with the one already taken."""
        if self._alone:
            return 1
        even_share = -(-(self._queue.qsize() + 1) // len(self._reward))
        return min(even_share, GROUPS_PER_CALL)

    def _merge(self, group: Group, answer: Sequence[Score]) -> ScoredGroup | None:
        """The outcome; None where absent scores are requested again."""
        before = self._partial.pop(group.id, tuple(answer))
        scores = tuple(merge_scores(old, new) for old, new in zip(before, answer, strict=True))
        absent = [score.reason or "no reason" for score in scores if is_absent(score)]
        if not absent:
            self._attempts.pop(group.id, None)
            return ScoredGroup(replace(group, scores=_with_rewards(group, scores)))
        if self._attempts[group.id] >= self._redo:
            self._attempts.pop(group.id, None)
            return ScoredGroup(group, f"no score: {absent[0]}")
        self._attempts[group.id] += 1
        self._partial[group.id] = scores
        self._queue.put_nowait(group)
        return None


def _with_rewards(group: Group, scores: Sequence[Score]) -> tuple[Score, ...]:
    """Scores that are all present, each with what the environment gave; of parts the combiner makes the total."""
    totals: list[Score] = []
    for trajectory, score in zip(group.trajectories, scores, strict=True):
        if score.value is not None and trajectory.reward is not None:
            score = replace(score, value=score.value + trajectory.reward)
        totals.append(score)
    return tuple(totals)
