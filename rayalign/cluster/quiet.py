"""A pool in which nothing is in flight, for as long as somebody needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rayalign.cluster.pool import GeneratorPool
from rayalign.errors import DeadlineError

LOOK = 0.02
"""seconds between two looks at the pool"""


@asynccontextmanager
async def quiet(pool: GeneratorPool) -> AsyncIterator[None]:
    """Hold new candidates back, and wait until those in flight are written; somebody must read `pool.finished`.

    Raises:
        DeadlineError: they were not within the deadline of a call.
    """
    pool.hold()
    try:
        await _written(pool)
        yield
    finally:
        await pool.release()


async def _written(pool: GeneratorPool) -> None:
    try:
        async with asyncio.timeout(pool.timeout):
            while pool.in_flight:
                await asyncio.sleep(LOOK)
    except TimeoutError as error:
        raise DeadlineError(
            f"new weights wait for {pool.in_flight} answers that were not written within {pool.timeout:.0f} s; "
            "take overlap.in_flight: continue, or raise cluster.call_timeout"
        ) from error
