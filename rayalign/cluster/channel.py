"""The weight channel through the object store: one operation with a deadline, proven at every version.

    policy ranks -- checksummed buckets --> object store --> every engine verifies and loads
    policy rank 0 -- log-probs of a fixed probe --> compared with each engine's own

An engine that fails midway is discarded by the pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayalign.cluster.group import Actor, ActorGroup, Call, together
from rayalign.cluster.pool import GeneratorPool
from rayalign.errors import ActorError, DeadlineError, WeightError
from rayalign.storage.events import EventLog
from rayalign.weights.probe import Bound, Probe, check


@dataclass(frozen=True, slots=True)
class Transfer:
    """One proven transfer."""

    version: int
    seconds: float
    bytes: int
    gap: float
    """largest root mean square difference of the probe's log-probs between trainer and an engine [nats]"""


class WeightChannel:
    """Carries a policy's weights to a pool's engines."""

    def __init__(self, tokens: Sequence[Sequence[int]], *, bound: Bound, timeout: float, events: EventLog) -> None:
        self._tokens = tuple(tuple(row) for row in tokens)
        self._bound = bound
        self._timeout = timeout
        self._events = events

    async def transfer(self, policy: ActorGroup, pool: GeneratorPool, version: int) -> Transfer:
        """Load the policy's weights into every engine as `version`, and prove it.

        Raises:
            WeightError: a bucket was corrupt, or an engine computes something else with the weights.
            DeadlineError: it took longer than the channel's deadline.
        """
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                size, gap = await self._carry(policy, pool, version)
        except TimeoutError as error:
            raise DeadlineError(
                f"the weights of version {version} were not proven within {self._timeout:.0f} s; "
                "see the generators' logs, or raise cluster.transfer_timeout"
            ) from error
        done = Transfer(version, time.perf_counter() - start, size, gap)
        self._events.write("published", version=version, seconds=done.seconds, size=size, probe_gap=gap)
        return done

    async def _carry(self, policy: ActorGroup, pool: GeneratorPool, version: int) -> tuple[int, float]:
        """Bytes carried, and the probe's gap."""
        shares = await policy.all(lambda actor: actor.export.remote(), timeout=self._timeout)
        # Both are waited for: a policy that dies takes the weights in the object store with it, so that both fail.
        answers, sizes = await together(
            # All ranks take part: under ZeRO-3 a forward pass of one rank alone would wait for the others.
            policy.all(lambda actor: actor.probe.remote(self._tokens), timeout=self._timeout),
            _every_engine(pool, lambda actor: actor.load.remote(shares[0], version), self._timeout),
        )
        logprobs = tuple(tuple(row) for row in answers[0])
        probe = Probe(version, self._tokens, logprobs, self._bound.value)
        gap = await prove(pool, probe, self._timeout)
        self._bound.observe(gap)
        return max(size for _, size in sizes), gap


async def prove(pool: GeneratorPool, probe: Probe, timeout: float) -> float:
    """The largest gap of any engine to the probe; an engine that deviates alone is discarded.

    Raises:
        WeightError: every engine deviates, so that the weights are at fault.
    """
    answers = await _every_engine(pool, lambda actor: actor.score.remote(probe.token_ids), timeout)
    gaps: list[float] = []
    deviations: list[tuple[Actor, WeightError]] = []
    for actor, logprobs in answers:
        try:
            gaps.append(check(probe, logprobs))
        except WeightError as error:
            deviations.append((actor, error))
    if not gaps:
        raise deviations[0][1]
    for actor, deviation in deviations:
        await pool.discard(actor, deviation)
    return max(gaps)


async def load_folder(pool: GeneratorPool, folder: str, probe: Probe | None, timeout: float) -> None:
    """Load a model folder into running engines; proven where the folder carries a probe."""
    await _every_engine(pool, lambda actor: actor.load_folder.remote(folder, 0), timeout)
    if probe is not None:
        await prove(pool, probe, timeout)


async def _every_engine(pool: GeneratorPool, call: Call, timeout: float) -> list[tuple[Actor, Any]]:
    """Each engine and its answer; engines that failed are discarded, an ActorError where none is left."""
    actors = list(pool.group.actors)
    waits = (pool.group.one(actor, call, timeout=timeout) for actor in actors)
    answers: list[tuple[Actor, Any]] = []
    for actor, outcome in zip(actors, await asyncio.gather(*waits, return_exceptions=True), strict=True):
        if isinstance(outcome, ActorError | WeightError):
            await pool.discard(actor, outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            answers.append((actor, outcome))
    return answers
