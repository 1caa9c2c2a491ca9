"""Seconds of an iteration where time is latency: engines, reward and trainer that wait and cost nothing.

python -m benchmarks.latency

The rollout loop and the pool are the run's own, over real Ray actors that import no torch (`scale_actors`). Engines
write a group in a given time; the trainer waits in the place of its update. With one version of staleness an
iteration is to last at most 1.1 times its longer side.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.record import record
from benchmarks.scale import GROUPS_PER_SECOND, PROMPTS, rollout_loop, scripted_session, start_scripted
from rayalign.cluster.pool import GeneratorPool
from rayalign.coordinator.rollouts import RolloutLoop
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Journal

ENGINES, ITERATIONS, WARM = 4, 12, 3
GENERATE = PROMPTS / GROUPS_PER_SECOND
"""seconds that all engines together need for an iteration"""
UPDATES = (0.5 * GENERATE, GENERATE, 2.0 * GENERATE)
"""seconds that the trainer waits"""


async def iterate(loop: RolloutLoop, update: float) -> float:
    """Seconds of an iteration after the first ones."""
    await loop.published(0)
    for iteration in range(ITERATIONS):
        if iteration == WARM:
            start = time.perf_counter()
        await loop.take(iteration)
        await asyncio.sleep(update)
        await loop.published(iteration + 1)
    return (time.perf_counter() - start) / (ITERATIONS - WARM)


async def measure(pool: GeneratorPool, folder: Path, events: EventLog, staleness: int, update: float) -> float:
    """Seconds of an iteration with the engines of a pool."""
    with closing(Journal(folder / f"{staleness}-{update}.jsonl")) as journal:
        loop = await rollout_loop(pool, folder / "model", ITERATIONS, events, journal, max_staleness=staleness)
        rollouts = asyncio.ensure_future(loop.run())
        training = asyncio.ensure_future(iterate(loop, update))
        await asyncio.wait({rollouts, training}, return_when=asyncio.FIRST_COMPLETED)
        rollouts.cancel()
        await asyncio.gather(rollouts, return_exceptions=True)
        return await training


async def measure_all(folder: Path) -> list[dict[str, float]]:
    """Each update with and without staleness."""
    rows = []
    with closing(EventLog(folder / "events.jsonl")) as events:
        pool = await start_scripted(ENGINES, events)
        for update in UPDATES:
            together = await measure(pool, folder, events, 1, update)
            in_turns = await measure(pool, folder, events, 0, update)
            generate = in_turns - update
            ratio = together / max(generate, update)
            row = {"generate_and_score": generate, "update": update, "staleness_1": together, "ratio": ratio}
            rows.append(row)
        pool.stop()
    return rows


def main() -> None:
    """Measure on a session of its own."""
    with tempfile.TemporaryDirectory() as scratch, scripted_session():
        make_preset("nano", build_tokenizer(), 0, Path(scratch) / "model")
        rows = asyncio.run(measure_all(Path(scratch)))
    record("latency", {"limit_ratio": 1.1, "engines": ENGINES, "seconds": rows})


if __name__ == "__main__":
    main()
