"""GeneratorPool: the rollout engines of a run, one pool for all its stages.

    submit --> least loaded engine --> its step loop --> collect (one long poll on each engine) --> finished

Candidates of one prompt share an engine, whose prefix cache then holds the prompt once, and a candidate's next turn
goes to the engine of the turn before. An engine that is lost, stopped or hung is discarded; others write its candidates
again, and another one starts in its place (`starting_engines.py`). Further ones start where the pool may grow and the
cluster has room (`further_engines.py`). A new engine takes part in the next transfer of weights, and writes once these
are proven. Without any engine, candidates wait for the first that comes (`starved`); if none can come, the run fails.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any

import ray

from rayalign.cluster.ending import end_actor
from rayalign.cluster.further_engines import FurtherEngines
from rayalign.cluster.group import Actor, ActorGroup, Call
from rayalign.cluster.placement import Placement
from rayalign.cluster.polling import POLL, Poll, Polls
from rayalign.cluster.spreading import Homes, spread
from rayalign.cluster.starting_engines import StartingEngines
from rayalign.cluster.waits import together
from rayalign.cluster.wires import Answer
from rayalign.config import LoraConfig
from rayalign.errors import ActorError, DeadlineError, LostError, WeightError
from rayalign.rollout import EngineName
from rayalign.rollout.base import Finished, Request

LOOK = 1.0
"""seconds after which a new engine is polled too and hanging ones are looked for: it costs time for each engine"""
HUNG = 0.5
"""of the deadline of a call: an engine that is so long in one step hangs, and others still have time to write for it"""
FAILURES = (ActorError, WeightError, DeadlineError)
"""of an engine that others can stand in for"""


class GeneratorPool:
    """Engines as actors; made by `pool_start.start_pool`."""

    def __init__(
        self,
        group: ActorGroup,
        placement: Placement,
        engine: EngineName,
        model: str,
        timeout: float,
        adapter: LoraConfig | None = None,
        starting: StartingEngines | None = None,
        further: FurtherEngines | None = None,
    ) -> None:
        """
        Args:
            timeout: seconds of any call to an engine.
            starting: starts engines in the place of lost ones; None: none does.
        """
        self.group = group
        self._wires = group.wires
        self.engine = engine
        self.adapter = adapter
        """the largest that the engines take beside their base; None: they get adapters merged"""
        self.model = model
        """folder that the engines were built from: their architecture and tokenizer"""
        self.tokenizer: str | None = None
        """folder or hub name of the model with whose tokenizer engines decode; None: they do not"""
        self._placement = placement
        self.timeout = timeout
        self._open: dict[Actor, dict[str, Request]] = {actor: {} for actor in group.actors}
        self._homes = Homes()
        self._starting = starting or StartingEngines()
        self._further = further
        self.renew: Callable[[], Awaitable[Any]] | None = None
        """sends the present weights again, for engines that come later; None: a stage that trains does so itself"""
        self._held: list[Request] = []
        """candidates that wait for an engine"""
        self._holds = False
        """new candidates wait until `release`"""
        # a poll under way outlives the stream that began it: what it brings home must not be lost
        self._polls: dict[Actor, ray.ObjectRef | Answer] = {}

    @property
    def pending(self) -> int:
        """Candidates submitted and not finished."""
        return len(self._held) + self.in_flight

    @property
    def in_flight(self) -> int:
        """Of them those that engines have."""
        return sum(len(requests) for requests in self._open.values())

    @property
    def starved(self) -> bool:
        """Whether no engine writes, and one that has started waits for its weights."""
        return not self._open and (bool(self.group.actors) or self._starting.is_ready())

    @property
    def expects_engines(self) -> bool:
        """Whether an engine starts that may take part later."""
        return bool(self._starting.actors)

    async def submit(self, requests: Sequence[Request]) -> None:
        """Spread candidates over the engines; an engine that is found dead is discarded."""
        if self._holds or not self._open:
            self._held += requests
            return
        fair_share = math.ceil((self.pending + len(requests)) / len(self._open))
        calls: list[Awaitable[None]] = []
        for actor, share in spread(requests, self._open, self._homes, fair_share).items():
            calls.append(self._call(actor, lambda a, share=share: a.submit.remote(share, self.tokenizer)))  # type: ignore[misc]
        await together(*calls)

    async def abort(self, keys: Collection[str]) -> None:
        """Give up candidates, which never come; an engine that is found dead is discarded."""
        self._held = [request for request in self._held if request.key not in keys]
        for actor, requests in list(self._open.items()):
            own = [key for key in keys if requests.pop(key, None) is not None]
            if own:
                await self._call(actor, lambda a, own=own: a.abort.remote(set(own)))  # type: ignore[misc]

    def hold(self) -> None:
        """Keep new candidates from the engines until `release`."""
        self._holds = True

    async def release(self) -> None:
        """Submit what was held back."""
        self._holds = False
        await self._submit_held()

    def forget(self) -> None:
        """Drop the candidates of an attempt that has ended; what engines still write of them is ignored."""
        self._held, self._holds = [], False
        for requests in self._open.values():
            requests.clear()

    async def finished(self) -> AsyncGenerator[Finished, None]:
        """Candidates as they finish, from whichever engine, without end; close it to stop."""
        polls = Polls()
        self._poll_others(polls)
        looked = time.monotonic()
        try:
            while True:
                for actor, poll in await polls.answered(LOOK):
                    for item in await self._harvest(actor, poll):
                        yield item
                    if actor in self._open:
                        polls.add(actor, self._poll(actor))
                if time.monotonic() - looked >= LOOK:
                    await self._look_after()
                    self._poll_others(polls)
                    looked = time.monotonic()
        finally:
            polls.cancel()

    async def discard(self, actor: Actor, error: Exception) -> None:
        """End an engine and submit its open candidates to the others; a second call for it does nothing."""
        orphans = list(self._open.pop(actor, {}).values())
        if actor in self.group.actors:
            gone = self.group.machine_is_gone(actor)
            self.group.discard(actor)
            self._replace(actor, error, machine_is_gone=gone)
        self._refuse_if_none_is_left(error)
        await self.submit(orphans)

    async def every(self, call: Call, timeout: float) -> list[tuple[Actor, Any]]:
        """Each engine and its answer; an engine that fails is discarded at once, since the others may wait for it.

        Raises:
            LostError: none is left.
        """

        async def answer_of(actor: Actor) -> list[tuple[Actor, Any]]:
            try:
                return [(actor, await self.group.one(actor, call, timeout=timeout))]
            except FAILURES as error:
                await self.discard(actor, error)
                return []

        answers: list[tuple[Actor, Any]] = []
        for own in await together(*(answer_of(actor) for actor in list(self.group.actors))):
            answers += own
        return answers

    async def admit(self) -> None:
        """Let new engines that have started take part in transfers of weights; where there is none, wait for one."""
        if self._further is not None:
            for actor in self._further.fill():
                self._starting.add(actor)
        await self._admit_ready()
        while not self.group.actors and self._starting.actors:
            await asyncio.sleep(LOOK)
            if self._starting.is_ready():
                await self._admit_ready()

    def enlist(self, actor: Actor) -> None:
        """Let an engine whose weights are proven write candidates."""
        if actor in self.group.actors:
            self._open.setdefault(actor, {})

    def shrink(self) -> None:
        """Give back the further engines that write nothing now; the next transfer may start them again."""
        if self._further is None:
            return
        self._further.ask_no_more()
        idle = [actor for actor in self._further.actors if not self._open.get(actor)]
        for actor in idle:
            self._open.pop(actor, None)
            self._polls.pop(actor, None)
            if actor in self._starting.actors:
                self._starting.drop(actor)
            else:
                self.group.discard(actor)
            self._further.leave(actor)

    def stop(self) -> None:
        """End every engine."""
        self._starting.stop()
        self.group.kill()
        if self._further is not None:
            self._further.stop()
        self._placement.remove()

    def _replace(self, actor: Actor, error: Exception, *, machine_is_gone: bool = False) -> None:
        """Start another engine in the bundle of one that was discarded; a further one gives its place back."""
        if self._further is not None and actor in self._further:
            self._further.lose(actor, error)
            return
        self._starting.replace(actor, error, machine_is_gone=machine_is_gone)

    async def _admit_ready(self) -> None:
        """Add engines that have started to the group; one that could not start is replaced in turn."""
        for actor, setup in self._starting.take_ready():
            try:
                await self.group.one(actor, lambda _, setup=setup: setup)  # type: ignore[misc]
                await self.group.adopt(actor)
            except FAILURES as error:
                end_actor(actor, None)
                self._replace(actor, error)
                self._refuse_if_none_is_left(error)

    def _refuse_if_none_is_left(self, error: Exception) -> None:
        if not (self._open or self.group.actors or self._starting.actors):
            raise LostError(f"no generator is left; the last one: {error}") from error

    async def _look_after(self) -> None:
        """Discard engines that hang in a step, renew the weights of new ones, submit what has waited for an engine."""
        for actor in list(self._open):
            pulse = self.group.pulse(actor)
            if pulse is not None and pulse.working > HUNG * self.timeout and self._open.get(actor):
                reason = f"it has been in one step for {pulse.working:.0f} s"
                await self.discard(actor, LostError(f"generator (pid {self.group.pid(actor)}) hangs: {reason}"))
        if self.starved and self.renew is not None:
            await self.renew()
        await self._submit_held()

    async def _submit_held(self) -> None:
        if self._held and self._open and not self._holds:
            requests, self._held = self._held, []
            await self.submit(requests)

    async def _call(self, actor: Actor, call: Call) -> None:
        """Call an engine over its wire; it is discarded where it fails."""
        try:
            await self.group.one(actor, lambda a: call(self._wires.to(a)))
        except FAILURES as error:
            await self.discard(actor, error)

    def _poll_others(self, polls: Polls) -> None:
        """Poll the engines that are not polled yet."""
        for actor in self._open:
            if actor not in polls:
                polls.add(actor, self._poll(actor))

    def _poll(self, actor: Actor) -> Poll:
        if actor not in self._polls:
            self._polls[actor] = self._wires.to(actor).collect.remote(POLL)
        return asyncio.ensure_future(self.group.one(actor, lambda a: self._polls[a], timeout=POLL + self.timeout))

    async def _harvest(self, actor: Actor, poll: Poll) -> list[Finished]:
        self._polls.pop(actor, None)
        try:
            items = poll.result()
        except FAILURES as error:
            await self.discard(actor, error)
            return []
        open_requests = self._open.get(actor, {})
        candidates: list[Finished] = []
        for item in items:
            request = open_requests.pop(item.key, None)
            if request is not None:
                self._homes.remember(actor, request)
                candidates.append(item)
        return candidates
