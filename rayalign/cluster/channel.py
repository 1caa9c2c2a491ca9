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

from rayalign.cluster.group import ActorGroup
from rayalign.cluster.pool import GeneratorPool
from rayalign.errors import ActorError, WeightError
from rayalign.storage.events import EventLog
from rayalign.weights.probe import Probe, check


@dataclass(frozen=True, slots=True)
class Transfer:
    """One proven transfer."""

    version: int
    seconds: float
    bytes: int
    gap: float
    """largest difference of the probe's log-probs between trainer and engines"""


class WeightChannel:
    """Carries a policy's weights to a pool's engines."""

    def __init__(self, tokens: Sequence[Sequence[int]], *, tolerance: float, timeout: float, events: EventLog) -> None:
        self._tokens = tuple(tuple(row) for row in tokens)
        self._tolerance = tolerance
        self._timeout = timeout
        self._events = events

    async def transfer(self, policy: ActorGroup, pool: GeneratorPool, version: int) -> Transfer:
        """Load the policy's weights into every engine as `version`, and prove it.

        Raises:
            WeightError: a bucket was corrupt, or an engine computes something else with the weights.
            DeadlineError: it took longer than the channel's deadline.
        """
        start = time.perf_counter()
        shares = await policy.all(lambda actor: actor.export.remote(), timeout=self._timeout)
        size, answer = await asyncio.gather(
            self._load(pool, shares[0], version),
            policy.first(lambda actor: actor.probe.remote(self._tokens), timeout=self._timeout),
        )
        logprobs = tuple(tuple(row) for row in answer)
        gap = await prove(pool, Probe(version, self._tokens, logprobs, self._tolerance), self._timeout)
        done = Transfer(version, time.perf_counter() - start, size, gap)
        self._events.write("published", version=version, seconds=done.seconds, size=size, probe_gap=gap)
        return done

    async def _load(self, pool: GeneratorPool, refs: Sequence[object], version: int) -> int:
        actors = list(pool.group.actors)
        loads = [pool.group.one(a, lambda a: a.load.remote(refs, version), timeout=self._timeout) for a in actors]
        sizes = [0]
        for actor, outcome in zip(actors, await asyncio.gather(*loads, return_exceptions=True), strict=True):
            if isinstance(outcome, ActorError | WeightError):
                await pool.discard(actor, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                sizes.append(outcome)
        return max(sizes)


async def prove(pool: GeneratorPool, probe: Probe, timeout: float) -> float:
    """The largest gap of any engine to the probe; a WeightError where one is beyond the tolerance."""
    answers = await pool.group.all(lambda actor: actor.score.remote(probe.token_ids), timeout=timeout)
    return max(check(probe, answer) for answer in answers)


async def load_folder(pool: GeneratorPool, folder: str, probe: Probe | None, timeout: float) -> None:
    """Load a model folder into running engines; proven where the folder carries a probe."""
    await pool.group.all(lambda actor: actor.load_folder.remote(folder, 0), timeout=timeout)
    if probe is not None:
        await prove(pool, probe, timeout)
