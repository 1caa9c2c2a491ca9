"""A PPO iteration against the sum of its phases, each measured alone with both cores: same actors, same tokens.

`python -m benchmarks.ppo_iteration RUN` takes models and settings from a finished run of jobs/quickstart.yaml.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.record import record
from rayalign.config import TrainStage, load_job
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.online import OnlineTrainer, Parts
from rayalign.coordinator.recovery import recover
from rayalign.coordinator.rendering import Renderer
from rayalign.data.readers import load_examples
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.online import open_parts
from rayalign.rollout.base import candidate_seed
from rayalign.types import Group

ITERATIONS, WARM_UP, REPEATS = 14, 4, 5


async def timed(call: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """The fastest of several calls, and its result: alone means undisturbed."""
    best, result = float("inf"), None
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = await call()
        best = min(best, time.perf_counter() - start)
    return best, result


async def alone(context: RunContext, stage: TrainStage, parts: Parts, renderer: Renderer) -> dict[str, float]:
    """Seconds of each phase with nothing else going on."""
    seed = context.job.seed
    examples = load_examples(stage.data, seed=seed, use="prompts")[: stage.prompts]
    count = stage.candidates[0].count
    orders = []
    for number, example in enumerate(examples):
        seeds = tuple(candidate_seed(seed, 99999, number, example.prompt.id, index) for index in range(count))
        orders.append(GroupOrder(f"99999-{number:04d}.0", example.prompt, seeds))
    assembler = GroupAssembler(parts.pool, renderer, timeout=600.0)
    seconds: dict[str, float] = {}
    seconds["generate"], results = await timed(lambda: assembler.generate(orders))
    groups = [result.group for result in results]
    reward = parts.roles["reward"]
    seconds["score"], scores = await timed(lambda: reward.first(lambda a: a.score.remote(groups)))
    groups = [Group(g.id, g.prompt, 0, g.trajectories, s) for g, s in zip(groups, scores, strict=True)]
    preparer = parts.preparer
    seconds["collate"], rollouts = await timed(
        lambda: preparer.first(lambda a: a.collate.remote(groups, renderer.pad_id, stage.iterations))
    )
    outputs = {}
    for role, name in (("policy", "logprobs_BT"), ("reference", "reference_logprobs_BT"), ("critic", "values_BT")):
        seconds[f"evaluate_{role}"], outputs[name] = await timed(
            lambda role=role: parts.roles[role].all(lambda a: a.evaluate.remote(rollouts))
        )
    seconds["prepare"], answer = await timed(lambda: preparer.first(lambda a: a.prepare.remote(rollouts, outputs, {})))
    for role in ("policy", "critic"):
        seconds[f"update_{role}"], _ = await timed(
            lambda role=role: parts.roles[role].all(lambda a: a.update.remote(answer[0], seed))
        )
    seconds["publish"], _ = await timed(lambda: parts.channel.transfer(parts.roles["policy"], parts.pool, 1))
    return seconds


async def measure(context: RunContext, stage: TrainStage) -> dict[str, Any]:
    """Iterations first, then the phases, in the same actors."""
    async with open_parts(context, "ppo", stage) as (parts, renderer):
        resumption = recover(parts.journal, parts.checkpoints, scored=True, max_staleness=0, deterministic=False)
        trainer = OnlineTrainer(stage, context.job.tracking, parts, seed=context.job.seed, pad_id=renderer.pad_id)
        await trainer.train(resumption)
        phases = await alone(context, stage, parts, renderer)
    lines = (context.stage_folder("ppo") / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line)["metrics"] for line in lines][WARM_UP:]
    totals = [row["phase/total"] for row in rows]
    tokens = [row["rollout/tokens"] for row in rows]
    together = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name.startswith("phase/")}
    return {
        "iteration_seconds": statistics.median(totals),
        "iteration_tokens": statistics.median(tokens),
        "alone_seconds": phases,
        "alone_sum": sum(phases.values()),
        "ratio": statistics.median(totals) / sum(phases.values()),
        "in_the_loop": together,
    }


def main() -> None:
    """Copy the run's models beside a bench stage and measure."""
    source = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("sft", "rm"):
            shutil.copytree(source / "stages" / name / "model", Path(scratch) / "bench" / "stages" / name / "model")
        changes = [
            f"stages.ppo.iterations={ITERATIONS}",
            "stages.ppo.checkpoint_every=1000",
            f"output={scratch}",
            "name=bench",
        ]
        loaded = load_job("jobs/quickstart.yaml", [*changes, *sys.argv[2:]])
        stage = loaded.job.stages["ppo"]
        assert isinstance(stage, TrainStage)
        with RunContext(loaded, Inputs(loaded)) as context:
            figures = asyncio.run(measure(context, stage))
    record("ppo_iteration", {"limit_ratio": 1.25, **figures})


if __name__ == "__main__":
    main()
