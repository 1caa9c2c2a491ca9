"""The rollout loop: keeps the engines full, scores groups as they finish, hands whole iterations to training.

    admit -> groups -> gather -----> score ------> settle ------> fill -> ready -> take
      ^                  | failed                    | no score, rejected     |
      |                  +------------+--------------+                        |
      |                               v                                       |
      |                    replace (dropped and counted, another prompt)      |
      +----------- published(version): what may be admitted now <-------------+

Admission bounds staleness: a group of iteration i is submitted only once version i - max_staleness is published, so
every group that finishes can be consumed. Nothing is dropped for being late, which would select short answers.

Two bounds end the replacing of one place: failures in a row end the run, and after the algorithm's `max_rejections` the
next scored group is consumed whatever it is, since many useless groups are no fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.config import TrainStage, merged_sampling
from rayalign.coordinator.groups import GroupAssembler, GroupOrder, GroupResult
from rayalign.coordinator.order import PromptOrder, Ticket
from rayalign.coordinator.rendering import draws
from rayalign.coordinator.scoring import ScoredGroup, Scoring
from rayalign.errors import ActorError, DeadlineError
from rayalign.rollout.base import candidate_seed
from rayalign.scoring.parts import RewardCombiner
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Journal
from rayalign.storage.records import encode
from rayalign.types import Candidate, Example, Group

logger = logging.getLogger(__name__)
ATTEMPTS = 4
"""prompts in a row that may fail for one place of an iteration before the run gives up"""


@dataclass(slots=True, eq=False)
class RolloutLoop:
    """Groups from prompts to scored candidates, with every one accounted for in the journal."""

    settings: TrainStage
    seed: int
    algorithm: Algorithm[Any]
    order: PromptOrder
    assembler: GroupAssembler
    scoring: Scoring | None
    """None: groups are taken without scores"""
    journal: Journal
    events: EventLog
    timeout: float
    rewards: RewardCombiner | None = None
    """of scores with parts; None: scores have their values already"""
    rejected: Counter[int] = field(default_factory=Counter, init=False)
    """groups that the algorithm rejected, by iteration"""
    _version: int = field(default=-1, init=False)
    _first: int = field(default=0, init=False)
    _serials: Counter[tuple[int, int]] = field(default_factory=Counter, init=False)
    _tickets: dict[str, Ticket] = field(default_factory=dict, init=False)
    _ready: defaultdict[int, dict[int, Group]] = field(default_factory=lambda: defaultdict(dict), init=False)
    _kept: set[tuple[int, int]] = field(default_factory=set, init=False)
    """places filled before the interruption; `take` empties `_ready`"""
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
            tasks.create_task(self.assembler.run(self._gather))
            if self.scoring is not None:
                tasks.create_task(self.scoring.run(self._settle))

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
            unscored = self.scoring.waiting if self.scoring is not None else 0
            raise DeadlineError(
                f"iteration {iteration} has {len(self._ready[iteration])} of {self.settings.prompts} groups after "
                f"{self.timeout:.0f} s, {self.assembler.pending} on the engines, {unscored} unscored; "
                "an engine or the reward is stuck or too slow: see the event log, or raise cluster.call_timeout"
            ) from error
        groups = self._ready.pop(iteration)
        ordered = [groups[slot] for slot in range(self.settings.prompts)]
        consumed = ordered if self.rewards is None else self.rewards.take(ordered)
        self.order.observe(iteration, consumed)
        return consumed

    async def _admit(self) -> None:
        for iteration in range(self._first, self.settings.iterations):
            # before the first version of this run the engines hold weights of another stage
            oldest = max(self._first, iteration - self.settings.max_staleness)
            async with self._changed:
                await self._changed.wait_for(lambda oldest=oldest: oldest <= self._version)  # type: ignore[misc]
            missing = [slot for slot in range(self.settings.prompts) if (iteration, slot) not in self._kept]
            await self._submit([Ticket(iteration, slot, self._example(iteration, slot, 0)) for slot in missing])

    def _example(self, iteration: int, slot: int, attempt: int) -> Example:
        planned = self.settings.iterations * self.settings.prompts
        position = iteration * self.settings.prompts + slot + attempt * planned
        return self.order[position]

    async def _submit(self, tickets: Sequence[Ticket]) -> None:
        orders = []
        for ticket in tickets:
            group_id = self._new_id(ticket.iteration, ticket.slot)
            self._tickets[group_id] = ticket
            place = {"iteration": ticket.iteration, "prompt": ticket.example.prompt.id}
            self.journal.append({"kind": "submitted", "group": group_id, **place})
            orders.append(self._order(group_id, ticket))
        await self.assembler.submit(orders)

    def _new_id(self, iteration: int, slot: int) -> str:
        """An id that no group of this stage had, before an interruption neither."""
        serial = self._serials[iteration, slot]
        self._serials[iteration, slot] += 1
        return f"{iteration:05d}-{slot:04d}.{serial}"

    def _order(self, group_id: str, ticket: Ticket) -> GroupOrder:
        sources = [source for source in self.settings.candidate_sources if source.source == "live"]
        live = sum(source.count for source in sources)
        own_draws = draws([(each.count, merged_sampling(self.settings.sampling, each.sampling)) for each in sources])
        dataset: list[Candidate] = []
        for source in self.settings.candidate_sources:
            if source.source == "dataset":
                dataset += ticket.example.candidates[: source.count]
        prompt = ticket.example.prompt
        # a small data set may give a slot the same prompt again
        indices = range(ticket.attempt * live, (ticket.attempt + 1) * live)
        seeds = tuple(candidate_seed(self.seed, ticket.iteration, ticket.slot, prompt.id, index) for index in indices)
        return GroupOrder(group_id, prompt, seeds, own_draws, ticket.iteration, tuple(dataset))

    async def _gather(self, result: GroupResult) -> None:
        self.events.write("generation_finished", group=result.group_id, failure=result.failure)
        if result.group is None:
            await self._replace(result.group_id, result.failure or "no reason")
            return
        self.journal.append({"kind": "finished", "group": encode(result.group)})
        if self.scoring is None:
            await self._fill(result.group)
        else:
            self.scoring.put(result.group)

    async def _settle(self, scored: ScoredGroup) -> None:
        group = scored.group
        if scored.failure is not None:
            await self._replace(group.id, scored.failure)
            return
        if self.rewards is not None:
            group = self.rewards.total(group)
        self.journal.append({"kind": "scored", "group": group.id, "scores": [encode(score) for score in group.scores]})
        reason = self._rejection(group)
        if reason is None:
            await self._fill(group)
        else:
            await self._reject(group, reason)

    def _rejection(self, group: Group) -> str | None:
        """Why the algorithm rejects a group; None once its place has used up its rejections."""
        if self._tickets[group.id].rejections >= self.algorithm.max_rejections:
            return None
        return self.algorithm.reject(group)

    async def _reject(self, group: Group, reason: str) -> None:
        self.rejected[group.iteration] += 1
        ticket = self._drop(group.id, reason)
        # scores came through, so a row of failures ends here
        await self._submit([self._next(ticket, failures=0, rejections=ticket.rejections + 1)])

    async def _replace(self, group_id: str, reason: str) -> None:
        ticket = self._drop(group_id, reason)
        logger.warning("group %s is dropped: %s", group_id, reason)
        if ticket.failures + 1 >= ATTEMPTS:
            raise ActorError(
                f"{ATTEMPTS} prompts in a row failed for one place of iteration {ticket.iteration}: {reason}"
            )
        await self._submit([self._next(ticket, failures=ticket.failures + 1, rejections=ticket.rejections)])

    def _drop(self, group_id: str, reason: str) -> Ticket:
        self.journal.append({"kind": "dropped", "group": group_id, "reason": reason})
        return self._tickets.pop(group_id)

    def _next(self, ticket: Ticket, *, failures: int, rejections: int) -> Ticket:
        """The same place with another prompt."""
        attempt = ticket.attempt + 1
        example = self._example(ticket.iteration, ticket.slot, attempt)
        return Ticket(ticket.iteration, ticket.slot, example, attempt, failures, rejections)

    async def _fill(self, group: Group) -> None:
        del self._tickets[group.id]
        async with self._changed:
            self._ready[group.iteration][_slot(group.id)] = group
            self._changed.notify_all()


def _slot(group_id: str) -> int:
    return int(group_id.split("-")[1].split(".")[0])
