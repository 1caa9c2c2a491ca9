"""The rollout loop: keeps the engines full, scores groups as they finish, hands whole iterations to training.

    admit -> assembler -> gather -----> score (one task for each reward actor) -----> ready ----> take
      ^                       | failed, or no score after redo                          |
      |                       v                                                         |
      |                    replace (dropped and counted, another prompt in its place)   |
      +---------------- published(version): what may be admitted now <------------------+

Admission bounds staleness: a group of iteration i is submitted only once version i - max_staleness is published, so
every group that finishes can be consumed. Nothing is dropped for being late, which would select short answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rayalign.cluster.group import Actor, ActorGroup
from rayalign.config import TrainStage
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.errors import ActorError, DeadlineError
from rayalign.rollout.base import candidate_seed
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Journal
from rayalign.storage.records import encode
from rayalign.types import Candidate, Example, Group, Score

logger = logging.getLogger(__name__)
ATTEMPTS = 4
"""prompts tried for one place of an iteration before the run gives up"""


class PromptOrder:
    """An endless sequence over a data set, shuffled anew in each epoch, by the seed alone: a resumed run goes on."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __getitem__(self, position: int) -> Example:
        epoch, offset = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._order = list(range(len(self._examples)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._examples[self._order[offset]]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in an iteration, and the prompt that is to fill it."""

    iteration: int
    slot: int
    attempt: int
    example: Example


@dataclass(slots=True, eq=False)
class RolloutLoop:
    """Groups from prompts to scored candidates, with every one accounted for in the journal."""

    settings: TrainStage
    seed: int
    order: PromptOrder
    assembler: GroupAssembler
    reward: ActorGroup | None
    journal: Journal
    events: EventLog
    timeout: float
    _version: int = field(default=-1, init=False)
    _first: int = field(default=0, init=False)
    _serials: Counter[tuple[int, int]] = field(default_factory=Counter, init=False)
    _tickets: dict[str, Ticket] = field(default_factory=dict, init=False)
    _redone: Counter[str] = field(default_factory=Counter, init=False)
    _partial: dict[str, tuple[Score, ...]] = field(default_factory=dict, init=False)
    """of groups that are asked about again: what is known so far"""
    _unscored: asyncio.Queue[Group] = field(default_factory=asyncio.Queue, init=False)
    _ready: defaultdict[int, dict[int, Group]] = field(default_factory=lambda: defaultdict(dict), init=False)
    _kept: set[tuple[int, int]] = field(default_factory=set, init=False)
    """places filled before the interruption; whoever takes an iteration empties `_ready`"""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)

    def resume(self, iteration: int, kept: Sequence[Group], serials: Mapping[tuple[int, int], int]) -> None:
        """Start at `iteration` with groups that were already made."""
        self._first = iteration
        self._serials.update(serials)
        for group in kept:
            self._ready[group.iteration][_slot(group.id)] = group
            self._kept.add((group.iteration, _slot(group.id)))

    async def run(self) -> None:
        """Admit, gather and score until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._admit())
            tasks.create_task(self._gather())
            for actor in self.reward.actors if self.reward else []:
                tasks.create_task(self._score(actor))

    async def published(self, version: int) -> None:
        """The engines have these weights now; admit what may follow."""
        async with self._changed:
            self._version = version
            self._changed.notify_all()

    async def take(self, iteration: int) -> list[Group]:
        """All groups of an iteration, in the order of their places, once they are whole.

        Raises:
            DeadlineError: they were not within the deadline of a call.
        """
        try:
            async with asyncio.timeout(self.timeout), self._changed:
                await self._changed.wait_for(lambda: len(self._ready[iteration]) == self.settings.prompts)
        except TimeoutError as error:
            raise DeadlineError(
                f"iteration {iteration} has {len(self._ready[iteration])} of {self.settings.prompts} groups after "
                f"{self.timeout:.0f} s, {self.assembler.pending} on the engines, {self._unscored.qsize()} unscored; "
                "an engine or the reward is stuck or too slow: see the event log, or raise cluster.call_timeout"
            ) from error
        groups = self._ready.pop(iteration)
        return [groups[slot] for slot in range(self.settings.prompts)]

    async def _admit(self) -> None:
        for iteration in range(self._first, self.settings.iterations):
            # before the first version of this run the engines hold weights of another stage
            oldest = max(self._first, iteration - self.settings.max_staleness)
            async with self._changed:
                await self._changed.wait_for(lambda oldest=oldest: oldest <= self._version)  # type: ignore[misc]
            missing = [slot for slot in range(self.settings.prompts) if (iteration, slot) not in self._kept]
            await self._submit([self._ticket(iteration, slot, 0) for slot in missing])

    def _ticket(self, iteration: int, slot: int, attempt: int) -> Ticket:
        planned = self.settings.iterations * self.settings.prompts
        position = iteration * self.settings.prompts + slot + attempt * planned
        return Ticket(iteration, slot, attempt, self.order[position])

    async def _submit(self, tickets: Sequence[Ticket]) -> None:
        orders = []
        for ticket in tickets:
            place, prompt = (ticket.iteration, ticket.slot), ticket.example.prompt.id
            group_id = f"{ticket.iteration:05d}-{ticket.slot:04d}.{self._serials[place]}"
            self._serials[place] += 1
            self._tickets[group_id] = ticket
            entry = {"kind": "submitted", "group": group_id, "iteration": ticket.iteration, "prompt": prompt}
            self.journal.append(entry)
            orders.append(self._order(group_id, ticket))
        await self.assembler.submit(orders)

    def _order(self, group_id: str, ticket: Ticket) -> GroupOrder:
        live = sum(source.count for source in self.settings.candidates if source.source == "live")
        dataset: list[Candidate] = []
        for source in self.settings.candidates:
            if source.source == "dataset":
                dataset += ticket.example.candidates[: source.count]
        prompt = ticket.example.prompt
        # a small data set may give a slot the same prompt again
        indices = range(ticket.attempt * live, (ticket.attempt + 1) * live)
        seeds = tuple(candidate_seed(self.seed, ticket.iteration, ticket.slot, prompt.id, index) for index in indices)
        return GroupOrder(group_id, prompt, seeds, ticket.iteration, tuple(dataset))

    async def _gather(self) -> None:
        async for result in self.assembler.finished():
            self.events.write("generation_finished", group=result.group_id, failure=result.failure)
            if result.group is None:
                await self._replace(result.group_id, result.failure or "no reason")
                continue
            self.journal.append({"kind": "finished", "group": encode(result.group)})
            if self.reward is None:
                await self._fill(result.group)
            else:
                self._unscored.put_nowait(result.group)

    async def _score(self, actor: Actor) -> None:
        assert self.reward is not None
        while True:
            groups = [await self._unscored.get()]
            # in a batch with others a score may differ in its last bits
            while not self.settings.deterministic and not self._unscored.empty():
                groups.append(self._unscored.get_nowait())
            self.events.write("score_started", groups=[group.id for group in groups])
            answers = await self.reward.one(actor, lambda a, groups=groups: a.score.remote(groups))  # type: ignore[misc]
            for group, scores in zip(groups, answers, strict=True):
                await self._settle(group, scores)

    async def _settle(self, group: Group, asked: tuple[Score, ...]) -> None:
        known = self._partial.pop(group.id, asked)
        scores = tuple(new if old.value is None else old for old, new in zip(known, asked, strict=True))
        absent = [score.reason or "no reason given" for score in scores if score.value is None]
        if not absent:
            self.journal.append({"kind": "scored", "group": group.id, "scores": [encode(s) for s in scores]})
            await self._fill(replace(group, scores=scores))
        elif self._redone[group.id] < self.settings.redo:
            self._redone[group.id] += 1
            self._partial[group.id] = scores
            self._unscored.put_nowait(group)
        else:
            await self._replace(group.id, f"no score: {absent[0]}")

    async def _replace(self, group_id: str, reason: str) -> None:
        ticket = self._tickets.pop(group_id)
        self.journal.append({"kind": "dropped", "group": group_id, "reason": reason})
        logger.warning("group %s is dropped: %s", group_id, reason)
        if ticket.attempt + 1 >= ATTEMPTS:
            raise ActorError(
                f"{ATTEMPTS} prompts in a row failed for one place of iteration {ticket.iteration}: {reason}"
            )
        await self._submit([self._ticket(ticket.iteration, ticket.slot, ticket.attempt + 1)])

    async def _fill(self, group: Group) -> None:
        del self._tickets[group.id]
        async with self._changed:
            self._ready[group.iteration][_slot(group.id)] = group
            self._changed.notify_all()


def _slot(group_id: str) -> int:
    return int(group_id.split("-")[1].split(".")[0])
