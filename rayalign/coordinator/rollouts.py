"""The rollout loop: keeps the engines full, scores groups as they finish, hands whole iterations to training.

    admit -> groups -> gather -----> score ------> settle ------> fill -> shelf -> take
      ^                  | failed                    | no score, rejected     |
      |                  +------------+--------------+                        |
      |                               v                                       |
      |                    replace (dropped and counted, another prompt)      |
      +----------- published(version): what may be admitted now <-------------+

Admission bounds staleness: a group of iteration i is submitted only once version i - max_staleness is published, so
every group that finishes can be consumed. Nothing is dropped for being late, which would select short answers, unless
the job asks for more prompts than an iteration needs and for `tail: drop` (`window.py`).

Two bounds end the replacing of one place: failures in a row end the run, and after the algorithm's `max_rejections` the
next scored group is consumed whatever it is, since many useless groups are no fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.config import SamplingConfig, TrainStage, merged_sampling, taken
from rayalign.coordinator.groups import GroupAssembler, GroupOrder, GroupResult
from rayalign.coordinator.heap import frozen_heap
from rayalign.coordinator.order import PromptOrder, Ticket
from rayalign.coordinator.rendering import Draw, draws
from rayalign.coordinator.scoring import ScoredGroup, Scoring
from rayalign.coordinator.window import Place, Shelf, Window, place_of
from rayalign.errors import ActorError, DeadlineError
from rayalign.rollout.base import candidate_seed
from rayalign.scoring.parts import RewardCombiner
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Entry, Journal
from rayalign.types import Candidate, Example, Group

logger = logging.getLogger(__name__)
ATTEMPTS = 4
"""prompts in a row that may fail for one place of an iteration before the run gives up"""
NOT_NEEDED = "the iteration was whole without it"


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
    _window: Window = field(init=False)
    _shelf: Shelf = field(init=False)
    _draws: tuple[Draw, ...] = field(init=False)
    """how each candidate that the policy writes is drawn"""
    _version: int = field(default=-1, init=False)
    _first: int = field(default=0, init=False)
    _counts: Counter[tuple[str, int]] = field(default_factory=Counter, init=False)
    """groups rejected, dropped or late, by iteration"""
    _serials: Counter[tuple[int, int]] = field(default_factory=Counter, init=False)
    _tickets: dict[str, Ticket] = field(default_factory=dict, init=False)
    _filled: set[Place] = field(default_factory=set, init=False)
    """before the interruption"""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    """what is given up has been submitted as a whole"""

    def __post_init__(self) -> None:
        self._window = Window.of(self.settings)
        self._shelf = Shelf(self._window)
        self._draws = live_draws(self.settings)

    def resume(
        self,
        iteration: int,
        kept: Sequence[Group],
        serials: Mapping[tuple[int, int], int],
        consumed: Collection[Place] = (),
    ) -> None:
        """Start at `iteration` with groups that were already made; those of the places `consumed` are trained on."""
        self._first = iteration
        self._serials.update(serials)
        self._filled.update(consumed)
        for group in kept:
            place = place_of(group.id)
            self._shelf.put(place, group)
            self._filled.add(place)

    async def run(self) -> None:
        """Admit, gather and score until cancelled."""
        with frozen_heap():
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
                await self._changed.wait_for(lambda: self._shelf.is_whole(iteration))
        except TimeoutError as error:
            unscored = self.scoring.waiting if self.scoring is not None else 0
            raise DeadlineError(
                f"iteration {iteration} has {self._shelf.count(iteration)} of {self.settings.prompts} groups after "
                f"{self.timeout:.0f} s, {self.assembler.pending} on the engines, {unscored} unscored; "
                "an engine or the reward is stuck or too slow: see the event log, or raise cluster.call_timeout"
            ) from error
        chosen, surplus = self._shelf.take(iteration)
        self._counts["late", iteration] += sum(home < iteration for home, _ in chosen)
        if self._window.width > self._window.prompts:
            await self._give_up(iteration, surplus)
        ordered = list(chosen.values())
        consumed = ordered if self.rewards is None else self.rewards.take(ordered)
        self.order.observe(iteration, consumed)
        return consumed

    def figures(self, iteration: int) -> dict[str, float]:
        """Groups of an iteration that were rejected, were not needed, or came from the iteration before."""
        return {f"rollout/{name}": self._counts[name, iteration] for name in ("rejected", "dropped", "late")}

    async def _admit(self) -> None:
        window = self._window
        submitted = window.first(self._first)
        while submitted < window.iterations * window.width:
            # before the first version of this run the engines hold weights of another stage
            admitted = await self._admitted(beyond=submitted)
            places = [place for place in window.places(submitted, admitted) if place not in self._filled]
            await self._submit([Ticket(*place, self._example(*place, 0)) for place in places])
            submitted = admitted

    async def _admitted(self, beyond: int) -> int:
        """How many places may have been submitted, once that is more than so many."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._window.admitted(self._version) > beyond)
        return self._window.admitted(self._version)

    def _example(self, iteration: int, slot: int, attempt: int) -> Example:
        width = self._window.width
        planned = self.settings.iterations * width
        return self.order[iteration * width + slot + attempt * planned]

    async def _submit(self, tickets: Sequence[Ticket]) -> None:
        async with self._sending:
            orders: list[GroupOrder] = []
            entries: list[Entry] = []
            for ticket in tickets:
                if not self._shelf.needs(ticket.iteration):
                    continue  # its iteration was whole before another prompt could take the place
                group_id = self._new_id(ticket.iteration, ticket.slot)
                self._tickets[group_id] = replace(ticket, version=self._version)
                self._shelf.begin(self._version)
                place = {"iteration": ticket.iteration, "prompt": ticket.example.prompt.id}
                entries.append({"kind": "submitted", "group": group_id, **place})
                orders.append(self._order(group_id, ticket))
            self.journal.extend(entries)
            await self.assembler.submit(orders)

    async def _give_up(self, iteration: int, surplus: Sequence[Group]) -> None:
        """Drop the groups of an iteration that is whole without them, finished or not."""
        async with self._sending:
            unfinished = [group_id for group_id, ticket in self._tickets.items() if ticket.iteration == iteration]
            for group_id in unfinished:
                self._end(group_id)
            dropped = [*unfinished, *(group.id for group in surplus)]
            for group_id in dropped:
                self.journal.append({"kind": "dropped", "group": group_id, "reason": NOT_NEEDED})
            self._counts["dropped", iteration] += len(dropped)
            await self.assembler.abandon(unfinished)

    def _new_id(self, iteration: int, slot: int) -> str:
        """An id that no group of this stage had, before an interruption neither."""
        serial = self._serials[iteration, slot]
        self._serials[iteration, slot] += 1
        return f"{iteration:05d}-{slot:04d}.{serial}"

    def _order(self, group_id: str, ticket: Ticket) -> GroupOrder:
        dataset: list[Candidate] = []
        for source in self.settings.candidate_sources:
            if source.source == "dataset":
                dataset += taken(source, ticket.example.candidates)
        prompt = ticket.example.prompt
        # a small data set may give a slot the same prompt again
        live = len(self._draws)
        indices = range(ticket.attempt * live, (ticket.attempt + 1) * live)
        seeds = tuple(candidate_seed(self.seed, ticket.iteration, ticket.slot, prompt.id, index) for index in indices)
        return GroupOrder(group_id, prompt, seeds, self._draws, ticket.iteration, tuple(dataset))

    async def _gather(self, result: GroupResult) -> None:
        self.events.write("generation_finished", group=result.group_id, failure=result.failure)
        if result.group is None:
            await self._replace(result.group_id, result.failure or "no reason")
            return
        self.journal.append({"kind": "finished", "group": result.group})
        if self.scoring is None:
            await self._fill(result.group)
        else:
            all_awaited = self._window.width == self._window.prompts
            others_follow = all_awaited and self.assembler.writes_for(result.group.iteration)
            self.scoring.put(result.group, others_follow=others_follow)

    async def _settle(self, scored: ScoredGroup) -> None:
        group = scored.group
        if group.id not in self._tickets:
            return  # it was given up while it was scored
        if scored.failure is not None:
            await self._replace(group.id, scored.failure)
            return
        if self.rewards is not None:
            group = self.rewards.total(group)
        self.journal.append({"kind": "scored", "group": group.id, "scores": group.scores})
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
        self._counts["rejected", group.iteration] += 1
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
        return self._end(group_id)

    def _end(self, group_id: str) -> Ticket:
        """The ticket of a group that is no longer being made."""
        ticket = self._tickets.pop(group_id)
        self._shelf.end(ticket.version)
        return ticket

    def _next(self, ticket: Ticket, *, failures: int, rejections: int) -> Ticket:
        """The same place with another prompt."""
        attempt = ticket.attempt + 1
        example = self._example(ticket.iteration, ticket.slot, attempt)
        return Ticket(ticket.iteration, ticket.slot, example, attempt, failures, rejections)

    async def _fill(self, group: Group) -> None:
        self._end(group.id)
        async with self._changed:
            self._shelf.put(place_of(group.id), group)
            self._changed.notify_all()


def live_draws(settings: TrainStage) -> tuple[Draw, ...]:
    """How each candidate of a group is drawn that the policy writes."""
    counts: list[tuple[int, SamplingConfig]] = []
    for source in settings.candidate_sources:
        if source.source == "live":
            counts.append((source.count, merged_sampling(settings.sampling, source.sampling)))
    return draws(counts)
