"""What the coordinator costs from 1 to 64 engines or ranks: its CPU time for each candidate, through real Ray actors.

python -m benchmarks.scale [--quick]

Prompts, groups, journal, event log, scoring and admission are the run's own. The engines and the reward are scripted
and import no torch, so that the machine's cores are left to the coordinator. All engines together write the same number
of groups a second, however many they are: only the number of actors that the coordinator attends to changes. There are
two such rates: at the lower one the coordinator sleeps between any two groups, and wakes to cold caches.

The ranks of a learner are scripted too. Every rank is called for each forward pass, update and checkpoint of an
iteration, so what they cost grows with their number, and is counted for each candidate of that iteration.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import ray

from benchmarks.record import record
from benchmarks.scale_actors import TOKENS, ScriptedGenerator, ScriptedRank, ScriptedReward
from rayalign.algorithms.base import load
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.placement import Claim, Placement
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import CONCURRENCY
from rayalign.cluster.roles import WIRE_THREADS
from rayalign.cluster.session import Session
from rayalign.config import CandidateSource, ClusterConfig, RoleConfig, SamplingConfig, TrainStage
from rayalign.coordinator.groups import GroupAssembler
from rayalign.coordinator.order import PromptOrder
from rayalign.coordinator.rendering import Renderer
from rayalign.coordinator.rollouts import RolloutLoop
from rayalign.coordinator.scoring import ScoringLoop
from rayalign.data.paddock import prompts
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from rayalign.pipeline.online import PATIENCE
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Journal
from rayalign.types import Example

ENGINES = RANKS = (1, 4, 16, 64)
CANDIDATES = 16
"""of a group"""
PROMPTS = 64
"""of an iteration"""
GROUPS_PER_SECOND = 60.0
"""of all engines together"""
BUSY_GROUPS_PER_SECOND = 600.0
"""groups a second that keep the coordinator busy for most of the time"""
RANK_ITERATIONS = 40
"""measured with each number of ranks"""
WARM = 2
"""iterations before the measured ones"""
DEADLINE = 120.0
"""seconds for any answer"""


def main() -> None:
    """Measure each number of engines, and then of ranks, on a session of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 and 4 of each, and nothing is recorded")
    quick = parser.parse_args().quick
    counts, iterations = ((1, 4), 4) if quick else (ENGINES, 14)
    rows = [measure(count, iterations, GROUPS_PER_SECOND) for count in counts]
    busy_rows = [measure(count, 4 * iterations, BUSY_GROUPS_PER_SECOND) for count in counts]
    rank_rows = [measure_ranks(count) for count in (counts if quick else RANKS)]
    figures = {
        "candidates_per_group": CANDIDATES,
        "tokens_per_candidate": TOKENS,
        "groups_per_second": GROUPS_PER_SECOND,
        "runs": rows,
        "most_against_least": most_against_least(rows),
        "busy_groups_per_second": BUSY_GROUPS_PER_SECOND,
        "busy_runs": busy_rows,
        "busy_most_against_least": most_against_least(busy_rows),
        "ranks": rank_rows,
    }
    if quick:
        print(figures)
    else:
        record("scale", figures)


def most_against_least(rows: list[dict[str, Any]]) -> float:
    """The largest cost of a candidate over the smallest, among all numbers of engines."""
    per_candidate = [row["coordinator_microseconds"] for row in rows]
    return max(per_candidate) / min(per_candidate)


def measure(engines: int, iterations: int, rate: float) -> dict[str, Any]:
    """CPU time of this process for each candidate [microseconds], with so many engines and groups a second."""
    with tempfile.TemporaryDirectory() as folder, scripted_session():
        return asyncio.run(_measure(engines, iterations, rate, Path(folder)))


def scripted_session() -> Session:
    """A session whose workers start without the imports of models: scripted actors need none of them."""
    return Session(ClusterConfig(object_store=128 << 20), share_imports=False)


async def _measure(engines: int, iterations: int, rate: float, folder: Path) -> dict[str, Any]:
    model = folder / "model"
    make_preset("nano", build_tokenizer(), 0, model)
    with closing(EventLog(folder / "events.jsonl")) as events, closing(Journal(folder / "journal.jsonl")) as journal:
        pool = await start_scripted(engines, events, rate)
        imports_torch = await pool.group.all(lambda actor: actor.imports_torch.remote(), timeout=DEADLINE)
        loop = await rollout_loop(pool, model, iterations, events, journal)
        rollouts = asyncio.ensure_future(loop.run())
        training = asyncio.ensure_future(take_all(loop, iterations))
        await asyncio.wait({rollouts, training}, return_when=asyncio.FIRST_COMPLETED)
        rollouts.cancel()
        cpu, wall = await training
        pool.stop()
    candidates = (iterations - WARM) * PROMPTS * CANDIDATES
    return {
        "engines": engines,
        "candidates": candidates,
        "coordinator_microseconds": 1e6 * cpu / candidates,
        "coordinator_share_of_a_core": cpu / wall,
        "engines_that_import_torch": sum(imports_torch),
    }


async def start_scripted(engines: int, events: EventLog, rate: float = GROUPS_PER_SECOND) -> GeneratorPool:
    """A pool of scripted engines, of which each writes its share of so many groups a second."""
    claim = Claim(cpus=0.01, gpus=0.0, threads=1)
    hosting = RoleConfig(actors=engines, cpus=claim.cpus)
    placement = Placement({"generator": hosting}, {"generator": claim}, timeout=DEADLINE, slots={})
    remote = ray.remote(ScriptedGenerator)
    seconds = engines / rate
    actors = []
    for _ in range(engines):
        options = placement.options(claim, {})
        actors.append(remote.options(max_concurrency=CONCURRENCY, **options).remote(seconds, CANDIDATES))
    group = ActorGroup("generator", actors, events=events, timeout=DEADLINE, wire_threads=CONCURRENCY)
    await group.connect(*actors)
    return GeneratorPool(group, placement, "local", "", DEADLINE)


async def rollout_loop(
    pool: GeneratorPool, model: Path, iterations: int, events: EventLog, journal: Journal, *, max_staleness: int = 1
) -> RolloutLoop:
    """The loop as an online stage makes it."""
    stage = TrainStage(
        kind="train",
        algorithm={"name": "grpo"},
        model=str(model),
        prompts=PROMPTS,
        iterations=iterations,
        max_staleness=max_staleness,
        candidates=(CandidateSource(source="live", count=CANDIDATES),),
    )
    scorers = [ray.remote(ScriptedReward).remote()]
    reward = ActorGroup("reward", scorers, events=events, timeout=DEADLINE, wire_threads=WIRE_THREADS["reward"])
    await reward.connect(*scorers)
    renderer = Renderer(str(model), 128, SamplingConfig(max_tokens=TOKENS))
    examples = [Example(prompt, ()) for prompt in prompts(0, "train", 2048)]
    return RolloutLoop(
        stage,
        seed=0,
        algorithm=load(stage.algorithm),
        order=PromptOrder(examples, 0),
        assembler=GroupAssembler(pool, renderer, timeout=DEADLINE),
        scoring=ScoringLoop(reward, redo=1, alone=False, events=events, patience=PATIENCE),
        journal=journal,
        events=events,
        timeout=DEADLINE,
    )


async def take_all(loop: RolloutLoop, iterations: int) -> tuple[float, float]:
    """Consume every iteration; CPU and wall seconds of those after the first ones."""
    await loop.published(0)
    cpu = wall = 0.0
    for iteration in range(iterations):
        if iteration == WARM:
            cpu, wall = time.process_time(), time.perf_counter()
        await loop.take(iteration)
        await loop.published(iteration + 1)
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_ranks(ranks: int) -> dict[str, Any]:
    """CPU time of this process for each candidate [microseconds] that so many ranks of a learner cost."""
    with tempfile.TemporaryDirectory() as folder, scripted_session():
        return asyncio.run(_measure_ranks(ranks, Path(folder)))


async def _measure_ranks(ranks: int, folder: Path) -> dict[str, Any]:
    remote = ray.remote(ScriptedRank).options(num_cpus=0)
    with closing(EventLog(folder / "events.jsonl")) as events:
        actors = [remote.remote() for _ in range(ranks)]
        group = ActorGroup("policy", actors, events=events, timeout=DEADLINE)
        batch = [ray.put(bytes(1 << 20))]
        for iteration in range(WARM + RANK_ITERATIONS):
            if iteration == WARM:
                cpu, wall = time.process_time(), time.perf_counter()
            await group.all(lambda actor: actor.evaluate.remote(batch))
            await group.all(lambda actor, seed=iteration: actor.update.remote(batch, seed))  # type: ignore[misc]
            await group.all(lambda actor: actor.save_state.remote(str(folder)))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        group.kill()
    candidates = RANK_ITERATIONS * PROMPTS * CANDIDATES
    return {
        "ranks": ranks,
        "coordinator_microseconds": 1e6 * cpu / candidates,
        "seconds_of_an_iteration": wall / RANK_ITERATIONS,
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
