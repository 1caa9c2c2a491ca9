"""Which engine writes a batch sooner on a CPU, vLLM or the local one, for models of several sizes; with their starts.

The batch is that of an iteration in the embedded world: 64 prompts, four candidates each, 6 to 32 tokens an answer.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from benchmarks.record import record
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig, RolloutConfig, SamplingConfig
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.catalogue import shape_of
from rayalign.models.load import make_preset
from rayalign.rollout import EngineName
from rayalign.rollout.base import Request
from rayalign.storage.events import EventLog

PROMPTS, CANDIDATES, REPEATS = 64, 4, 3
ENGINES: tuple[EngineName, ...] = ("vllm", "local")
ROLLOUT = RolloutConfig(engines=2, context=128)
MODELS = ("nano", "tiny", "small")


def batch() -> list[Request]:
    """The candidates of an iteration, with the lengths that answers of the embedded world have."""
    dice, pieces = random.Random(0), len(build_tokenizer())
    requests: list[Request] = []
    for prompt in range(PROMPTS):
        ids = tuple(dice.randrange(5, pieces) for _ in range(dice.randint(8, 24)))
        for index in range(CANDIDATES):
            sampling = SamplingConfig(max_tokens=dice.randint(6, 32))
            requests.append(Request(f"{prompt}/{index}", ids, dice.randrange(1 << 30), sampling, ()))
    return requests


async def seconds_of(pool: GeneratorPool, requests: list[Request]) -> float:
    """Seconds until the last candidate is there."""
    start = time.perf_counter()
    await pool.submit(requests)
    remaining = len(requests)
    async with aclosing(pool.finished()) as stream:
        while remaining:
            await asyncio.wait_for(anext(stream), 600.0)
            remaining -= 1
    return time.perf_counter() - start


async def measure(engine: EngineName, model: str, scratch: Path) -> dict[str, float]:
    """Seconds to start the pool and, once it is warm, to write the batch."""
    start = time.perf_counter()
    pool = await start_pool(engine, model, ROLLOUT, ClusterConfig(), EventLog(scratch / "events.jsonl"))
    started = time.perf_counter() - start
    requests = batch()
    try:
        await seconds_of(pool, requests)
        seconds = [await seconds_of(pool, requests) for _ in range(REPEATS)]
    finally:
        pool.stop()
    return {"start_seconds": started, "batch_seconds": statistics.median(seconds)}


def main() -> None:
    """Measure each size with both engines, in one session."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, Session(ClusterConfig()):
        for name in MODELS:
            folder = f"{scratch}/{name}"
            make_preset(name, build_tokenizer(), 0, folder)
            shape = shape_of(folder)
            assert shape is not None
            row: dict[str, Any] = {"model": name, "parameters": shape.parameters}
            for engine in ENGINES:
                row[engine] = asyncio.run(measure(engine, folder, Path(scratch)))
            row["vllm_over_local"] = row["vllm"]["batch_seconds"] / row["local"]["batch_seconds"]
            rows.append(row)
    record("engine_choice", {"rows": rows})


if __name__ == "__main__":
    main()
