"""The weight channel: one operation with a deadline, proven at every version, over whichever path the sites allow.

    policy ranks -- send --> path -- messages --> every engine receives, verifies and loads
    policy ranks -- log-probs of a fixed probe --> compared with each engine's own

An engine that fails midway is discarded by the pool, and the path is opened anew for those that are left and for what
replaces it. An engine writes candidates only after its weights are proven.

On shared devices engines have room for their weights alone while they receive them, and get their cache once the
learners are in host memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rayalign.cluster.group import Actor, ActorGroup
from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.turns import DeviceTurns
from rayalign.config import LoraConfig
from rayalign.errors import DeadlineError, LostError, RayalignError, WeightError
from rayalign.storage.events import EventLog
from rayalign.weights.paths.base import Header, PathConfig
from rayalign.weights.paths.choice import Site
from rayalign.weights.probe import Bound, Probe, check

T = TypeVar("T")
U = TypeVar("U")
GIVE_UP = 10.0
"""seconds in which an engine must learn that no more weights come"""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One proven transfer."""

    version: int
    seconds: float
    bytes: int
    gap: float
    """largest root mean square difference of the probe's log-probs between trainer and an engine [nats]"""
    restarted: int = 0
    """candidates in flight that the engines write anew"""


class WeightChannel:
    """Carries a policy's weights to a pool's engines."""

    def __init__(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        bound: Bound,
        path: PathConfig,
        events: EventLog,
        adapter: LoraConfig | None = None,
        turns: DeviceTurns | None = None,
        restarts: bool = False,
    ) -> None:
        """The deadline of a transfer is the path's timeout.

        Args:
            adapter: the policy's, where engines get the base once and then the adapter alone; None: whole models.
            turns: of the policy and the engines; None: each has devices of its own.
            restarts: engines write the candidates in flight anew with new weights; else they go on with them.
        """
        self._tokens = tuple(tuple(row) for row in tokens)
        self._bound = bound
        self._path = path
        self._timeout = path.timeout
        self._events = events
        self._turns = turns or DeviceTurns(DeviceLedger({}), events)
        self._adapter = adapter
        self._restarts = restarts
        self._ends: list[Any] = []
        """the engines for which the path is open"""

    async def transfer(self, policy: ActorGroup, pool: GeneratorPool, version: int) -> Transfer:
        """Load the policy's weights into every engine as `version`, and prove it.

        Raises:
            WeightError: an engine computes something else with the weights.
            LostError: no engine is left, or the policy was lost.
            DeadlineError: it took longer than the channel's deadline.
        """
        start = time.perf_counter()
        size, gap, restarted = await with_engines(pool, lambda: self._carry_in_time(policy, pool, version))
        seconds = time.perf_counter() - start
        self._events.write(
            "published",
            version=version,
            seconds=seconds,
            size=size,
            probe_gap=gap,
            path=self._path.name,
            restarted=restarted,
        )
        return Transfer(version, seconds, size, gap, restarted)

    async def _carry_in_time(self, policy: ActorGroup, pool: GeneratorPool, version: int) -> tuple[int, float, int]:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._carry(policy, pool, version)
        except TimeoutError as error:
            if isinstance(error, DeadlineError):
                raise
            raise DeadlineError(
                f"the weights of version {version} were not proven within {self._timeout:.0f} s; "
                "see the generators' logs, or raise cluster.transfer_timeout"
            ) from error

    async def _carry(self, policy: ActorGroup, pool: GeneratorPool, version: int) -> tuple[int, float, int]:
        """Bytes carried, the probe's gap, and candidates that are written anew."""
        size = restarted = 0
        await self._turns.enter("publish")
        opened = await self._open(policy, pool)
        if self._adapter is None:
            headers = [Header("full", version)]
        else:
            base = [Header("full", version, "base")] if opened else []
            headers = [*base, Header("adapter", version, "adapter", self._adapter)]
        for header in headers:
            (rows, sent), counts = await self._transmit(policy, pool, header)
            size += sent
            restarted = sum(counts)
        logprobs = tuple(tuple(row) for row in rows)
        await self._turns.enter("rollout")
        gap = await prove(pool, Probe(version, self._tokens, logprobs, self._bound.value), self._timeout)
        self._bound.observe(gap)
        return size, gap, restarted

    async def _transmit(
        self, policy: ActorGroup, pool: GeneratorPool, header: Header
    ) -> tuple[tuple[Sequence[Sequence[float]], int], list[int]]:
        """Send and receive one set at once: what sending returned, and what each engine restarted."""
        generators = list(pool.group.actors)
        try:
            sent, answers = await _while_receiving(
                self._send(policy, header, generators),
                pool.every(lambda actor: actor.receive.remote(header, self._restarts), self._timeout),
            )
        except RayalignError:
            # Else engines would wait until their deadline for a policy that is gone, and the next attempt for them.
            await pool.every(lambda actor: actor.give_up.remote(), GIVE_UP)
            raise
        return sent, [restarted for _, restarted in answers]

    async def _send(
        self, policy: ActorGroup, header: Header, generators: list[Actor]
    ) -> tuple[Sequence[Sequence[float]], int]:
        """The probe's log-probs and the bytes sent; every rank is asked for both, one after the other."""
        sending = policy.all(lambda actor: actor.send.remote(header, generators), timeout=self._timeout)
        probing = policy.all(lambda actor: actor.probe.remote(self._tokens), timeout=self._timeout)
        sizes, rows = await asyncio.gather(sending, probing)
        return rows[0], sizes[0]

    async def _open(self, policy: ActorGroup, pool: GeneratorPool) -> bool:
        """Open both ends of the path, unless they are open for these engines; whether it did."""
        if self._ends == pool.group.actors:
            return False
        await policy.all(lambda actor: actor.open_path.remote(self._path), timeout=self._timeout)
        await pool.every(lambda actor: actor.open_path.remote(self._path), self._timeout)
        self._ends = list(pool.group.actors)
        return True


async def with_engines(pool: GeneratorPool, load: Callable[[], Awaitable[T]]) -> T:
    """What `load` returns, once new engines take part; where it loses all of them, it is done for those that follow."""
    while True:
        await pool.admit()
        try:
            return await load()
        except LostError:
            if pool.group.actors or not pool.expects_engines:
                raise


async def prove(pool: GeneratorPool, probe: Probe, timeout: float) -> float:
    """The largest gap of any engine to the probe; an engine that deviates alone is discarded.

    Raises:
        WeightError: every engine deviates, so that the weights are at fault.
        LostError: every engine was lost, and others follow.
    """
    answers = _answers(await pool.every(lambda actor: actor.score.remote(probe.token_ids), timeout))
    gaps: list[float] = []
    deviations: list[tuple[Actor, WeightError]] = []
    for actor, logprobs in answers:
        try:
            gaps.append(check(probe, logprobs))
            pool.enlist(actor)
        except WeightError as error:
            deviations.append((actor, error))
    if not gaps:
        raise deviations[0][1]
    for actor, deviation in deviations:
        await pool.discard(actor, deviation)
    return max(gaps)


async def load_folder(pool: GeneratorPool, folder: str, probe: Probe | None, timeout: float) -> None:
    """Load a model folder into running engines; proven where the folder carries a probe."""
    await with_engines(pool, lambda: _load_folder(pool, folder, probe, timeout))


async def _load_folder(pool: GeneratorPool, folder: str, probe: Probe | None, timeout: float) -> None:
    answers = _answers(await pool.every(lambda actor: actor.load_folder.remote(folder, 0), timeout))
    if probe is not None:
        await prove(pool, probe, timeout)
    else:
        for actor, _ in answers:
            pool.enlist(actor)


def _answers(answers: list[tuple[Actor, Any]]) -> list[tuple[Actor, Any]]:
    if not answers:
        raise LostError("every generator was lost before its weights were proven; others start in their places")
    return answers


def sites(group: ActorGroup) -> list[Site]:
    """Where the actors of a group stand."""
    return [Site(place.address, place.gpus) for place in group.places.values()]


async def _while_receiving(sending: Coroutine[Any, Any, T], receiving: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """What both returned; where sending fails nothing more comes, so that nobody waits for the engines."""
    receiver = asyncio.ensure_future(receiving)
    try:
        return await sending, await receiver
    finally:
        receiver.cancel()
