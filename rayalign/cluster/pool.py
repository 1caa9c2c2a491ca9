"""GeneratorPool: the rollout engines of a run, one pool for all its stages.

    submit --> least loaded engine --> its step loop --> collect (one long poll on each engine) --> finished

Candidates of one prompt share an engine, whose prefix cache then holds the prompt once, and a candidate's next turn
goes to the engine of the turn before. An engine that dies is discarded, and the candidates that it was writing are
written again by the others; without any left the run fails. Another engine starts in its place meanwhile. It takes part
in the next transfer of weights and writes candidates once these are proven.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import ray

from rayalign.actors.generator import GeneratorActor
from rayalign.cluster.forks import IMPORTS
from rayalign.cluster.group import Actor, ActorGroup, Call
from rayalign.cluster.placement import Placement, Slot, claims, free_cpus
from rayalign.config import ClusterConfig, LoraConfig, RoleConfig, RolloutConfig
from rayalign.errors import ActorError, WeightError
from rayalign.rollout import EngineName
from rayalign.rollout.base import Finished, Request
from rayalign.rollout.vllm import LIBRARIES, environment
from rayalign.storage.events import EventLog

HOMES = 4096
"""finished candidates whose engine is remembered for a next turn"""
POLL = 10.0
"""seconds that one collect call waits for a finished candidate"""
LOOK = 1.0
"""seconds after which a new engine is polled too"""
REPLACEMENTS = 3
"""engines that a pool replaces; more deaths than these have a cause that a new engine does not remove"""
Seat = Callable[[], Actor]
"""starts an engine in one bundle of the placement"""


class GeneratorPool:
    """Engines as actors; made by `start_pool`."""

    def __init__(
        self,
        group: ActorGroup,
        placement: Placement,
        engine: EngineName,
        model: str,
        timeout: float,
        adapter: LoraConfig | None = None,
        seats: Mapping[Actor, Seat] | None = None,
    ) -> None:
        self.group = group
        self.engine = engine
        self.adapter = adapter
        """the largest that the engines take beside their base; None: they get adapters merged"""
        self.model = model
        """folder that the engines were built from: their architecture and tokenizer"""
        self._placement = placement
        self._timeout = timeout
        self._open: dict[Actor, dict[str, Request]] = {actor: {} for actor in group.actors}
        self._homes: dict[str, tuple[Actor, tuple[int, ...]]] = {}
        """key -> engine and prompt, of the candidates that finished last"""
        self._seats = dict(seats or {})
        self._replacements = REPLACEMENTS
        self._starting: dict[Actor, ray.ObjectRef] = {}
        """replacement -> its setup under way"""
        # a poll under way outlives the stream that began it: what it brings home must not be lost
        self._polls: dict[Actor, ray.ObjectRef] = {}

    @property
    def pending(self) -> int:
        """Candidates submitted and not finished."""
        return sum(len(requests) for requests in self._open.values())

    async def submit(self, requests: Sequence[Request]) -> None:
        """Spread candidates over the engines; an engine that is found dead is discarded."""
        shares: dict[Actor, list[Request]] = {}
        for piece in self._pieces(requests):
            actor = self._home(piece[0]) or min(self._open, key=lambda a: len(self._open[a]))
            self._open[actor].update((request.key, request) for request in piece)
            shares.setdefault(actor, []).extend(piece)
        for actor, share in shares.items():
            try:
                await self.group.one(actor, lambda a, share=share: a.submit.remote(share))  # type: ignore[misc]
            except ActorError as error:
                await self.discard(actor, error)

    async def finished(self) -> AsyncGenerator[Finished, None]:
        """Candidates as they finish, from whichever engine, without end; close it to stop."""
        polls = {self._poll(actor): actor for actor in self._open}
        try:
            while polls:
                answered, _ = await asyncio.wait(polls, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
                for poll in answered:
                    actor = polls.pop(poll)
                    for item in await self._harvest(actor, poll):
                        yield item
                for actor in self._open.keys() - polls.values():
                    polls[self._poll(actor)] = actor
        finally:
            for poll in polls:
                poll.cancel()

    async def discard(self, actor: Actor, error: Exception) -> None:
        """End an engine and submit its open candidates to the others; a second call for it does nothing."""
        orphans = list(self._open.pop(actor, {}).values())
        if actor in self.group.actors:
            self.group.discard(actor)
        if not self._open:
            raise ActorError(f"no generator is left; the last one: {error}") from error
        self._replace(actor)
        await self.submit(orphans)

    async def every(self, call: Call, timeout: float) -> list[tuple[Actor, Any]]:
        """Each engine and its answer; engines that failed are discarded, an ActorError where none is left."""
        actors = list(self.group.actors)
        waits = (self.group.one(actor, call, timeout=timeout) for actor in actors)
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        answers: list[tuple[Actor, Any]] = []
        for actor, outcome in zip(actors, outcomes, strict=True):
            if isinstance(outcome, ActorError | WeightError):
                await self.discard(actor, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers.append((actor, outcome))
        return answers

    async def admit(self) -> None:
        """Let the replacements that have started take part in transfers of weights."""
        if not self._starting:
            return
        ready, _ = ray.wait(list(self._starting.values()), num_returns=len(self._starting), timeout=0)
        for actor, setup in list(self._starting.items()):
            if setup in ready:
                del self._starting[actor]
                await self._admit(actor, setup)

    def enlist(self, actor: Actor) -> None:
        """Let an engine whose weights are proven write candidates."""
        if actor in self.group.actors:
            self._open.setdefault(actor, {})

    def stop(self) -> None:
        """End every engine."""
        for actor in self._starting:
            ray.kill(actor)
        self.group.kill()
        self._placement.remove()

    def _replace(self, actor: Actor) -> None:
        """Start another engine in the bundle of one that was discarded."""
        seat = self._seats.pop(actor, None)
        if seat is None or not self._replacements:
            return
        self._replacements -= 1
        replacement = seat()
        self._seats[replacement] = seat
        self._starting[replacement] = replacement.setup.remote()

    async def _admit(self, actor: Actor, setup: ray.ObjectRef) -> None:
        """Add a replacement to the group; one that could not start is replaced in turn."""
        try:
            await self.group.one(actor, lambda _: setup)
            await self.group.adopt(actor)
        except ActorError:
            ray.kill(actor)
            self._replace(actor)

    def _pieces(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The candidates of each prompt together, cut only where they are more than an engine's fair share."""
        by_prompt: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            by_prompt.setdefault(request.prompt_ids, []).append(request)
        fair_share = math.ceil((self.pending + len(requests)) / len(self._open))
        pieces: list[list[Request]] = []
        for candidates in by_prompt.values():
            pieces += [candidates[at : at + fair_share] for at in range(0, len(candidates), fair_share)]
        return pieces

    def _poll(self, actor: Actor) -> asyncio.Task[list[Finished]]:
        if actor not in self._polls:
            self._polls[actor] = actor.collect.remote(POLL)
        return asyncio.ensure_future(self.group.one(actor, lambda a: self._polls[a], timeout=POLL + self._timeout))

    async def _harvest(self, actor: Actor, poll: asyncio.Task[list[Finished]]) -> list[Finished]:
        del self._polls[actor]
        try:
            items = poll.result()
        except ActorError as error:
            await self.discard(actor, error)
            return []
        open_requests = self._open.get(actor, {})
        candidates: list[Finished] = []
        for item in items:
            request = open_requests.pop(item.key, None)
            if request is not None:
                self._homes[item.key] = actor, request.prompt_ids
                candidates.append(item)
        for key in list(self._homes)[: max(0, len(self._homes) - HOMES)]:
            del self._homes[key]
        return candidates

    def _home(self, request: Request) -> Actor | None:
        """The engine that wrote the turn before, whose cache holds the prefix; None where there is none."""
        actor, before = self._homes.pop(request.key, (None, ()))
        goes_on = len(before) < len(request.prompt_ids) and request.prompt_ids[: len(before)] == before
        return actor if actor in self._open and goes_on else None


async def start_pool(
    engine: EngineName,
    model: str,
    config: RolloutConfig,
    cluster: ClusterConfig,
    events: EventLog,
    adapter: LoraConfig | None = None,
    slots: Sequence[Slot] = (),
) -> GeneratorPool:
    """Place and start the engines, all at once.

    Args:
        adapter: the largest that they must take beside their base.
        slots: of each engine, on devices that it shares with others; none: it has its own. An engine that dies on a
            shared device is not replaced, since a new one would start in the turn of others.
    """
    hosting = RoleConfig(actors=config.engines, cpus=config.cpus, gpus=config.gpus, threads=config.threads)
    logical = cluster.logical_devices is not None
    half = free_cpus() / 2  # of the machine, for the pool
    shares = claims({"generator": hosting}, free_cpus=half, logical=logical)
    computing = config.model_copy(update={"gpus": 0.0}) if logical else config
    claim, timeout = shares["generator"], cluster.start_timeout
    placement = Placement({"generator": hosting}, shares, timeout=timeout, slots={"generator": slots} if slots else {})
    remote = ray.remote(GeneratorActor)
    seats: dict[Actor, Seat] = {}
    imports = {IMPORTS: ",".join(LIBRARIES)} if engine == "vllm" and not computing.gpus else {}
    for _ in range(config.engines):
        options = placement.options(claim, {**environment(computing), **imports})
        kind = remote.options(max_concurrency=8, **options)
        seat = partial(kind.remote, engine, model, computing, cluster.call_timeout, adapter)
        seats[seat()] = seat
    group = ActorGroup("generator", list(seats), events=events, timeout=cluster.call_timeout)
    with ExitStack() as undo:
        undo.callback(placement.remove)
        undo.callback(group.kill)
        await group.locate(cluster.start_timeout)
        await group.all(lambda actor: actor.setup.remote(), timeout=cluster.start_timeout)
        undo.pop_all()
    replaced = {} if slots else seats
    return GeneratorPool(group, placement, engine, model, cluster.call_timeout, adapter, replaced)
