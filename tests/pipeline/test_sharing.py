"""PPO with policy, critic and engine on one logical device that has room for one side at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.cluster.session import Session
from rayalign.config import LoadedJob, load_job
from rayalign.errors import CapacityError
from rayalign.pipeline.checks import check
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.evaluate import EvaluateKind
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.online import open_parts, train_online
from rayalign.storage.metrics import read_metrics
from rayalign.weights.files import read_folder

pytestmark = pytest.mark.ray
JOB = """\
name: shared
cluster:
  share_devices: true
  logical_devices: {{count: 1, bytes: 80000000}}
rollout: {{engine: local, engines: 1, gpus: 1, cpus: 0.2, context: 64, cache_bytes: 60000000}}
data: {{limit: 8}}
stages:
  ppo:
    kind: train
    algorithm: {{name: ppo, kl_coefficient: 0.0}}
    model: {model}
    reward: "rules:length"
    candidates: [{{source: live, count: 2}}]
    sampling: {{max_tokens: 8}}
    prompts: 4
    iterations: 2
    checkpoint_every: 1
    learner: {{minibatch: 4, micro_tokens: 512, learning_rate: 1e-3}}
    roles: {{policy: {{gpus: 0.5}}, critic: {{gpus: 0.5}}}}
  final: {{kind: evaluate, models: {{ppo: stage:ppo}}, sampling: {{max_tokens: 8}}}}
"""


@pytest.fixture(scope="module")
def loaded(model: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedJob:
    folder = tmp_path_factory.mktemp("shared")
    path = folder / "job.yaml"
    path.write_text(JOB.format(model=model))
    return load_job(path, [f"output={folder / 'runs'}"])


@pytest.fixture(scope="module")
def context(ray_session: None, loaded: LoadedJob) -> Iterator[RunContext]:
    check(loaded)
    with RunContext(loaded, Inputs(loaded), local=Session(loaded.job.cluster)) as run:
        yield run


def events(context: RunContext, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in context.events_path.read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def test_an_engine_that_wakes_before_the_learners_have_left_finds_no_room(context: RunContext) -> None:
    stage: Any = context.job.stages["ppo"]

    async def wake_early() -> None:
        async with open_parts(context, "ppo", stage) as (parts, _):
            assert {len(group.places) for group in (parts.roles["policy"], parts.pool.group)} == {1}
            await parts.turns.reload("generator", ("weights", "cache"))

    with pytest.raises(
        CapacityError, match=r"generator cache needs .* of logical:0, .*policy training .*critic training"
    ):
        asyncio.run(wake_early())
    devices = {row["role"]: row["devices"] for row in events(context, "actor_started")}
    assert devices["policy"] == devices["critic"] == devices["generator"] == ["logical:0"]
    assert devices["reward"] == []


def test_iterations_run_through_by_turns_and_the_engine_serves_the_next_stage(
    context: RunContext, loaded: LoadedJob, model: str
) -> None:
    stage: Any = context.job.stages["ppo"]
    before = len(events(context, "turn"))
    context.begin("ppo")
    asyncio.run(train_online(context, "ppo", stage))
    turns = [row["name"] for row in events(context, "turn")][before:]
    iteration = ["training", "publish", "rollout"]
    assert turns == [*iteration, *iteration, *iteration, "training"]
    rows = read_metrics(context.stage_folder("ppo") / "metrics.jsonl")
    assert len(rows) == 2
    assert all(row["metrics"]["publish/probe_gap"] < 1e-3 for row in rows)
    assert all(row["metrics"]["phase/turn"] > 0 for row in rows)
    checkpoints = context.stage_folder("ppo") / "checkpoints"
    assert [path.name for path in sorted(checkpoints.glob("iteration-*"))] == ["iteration-000001", "iteration-000002"]
    trained = dict(read_folder(context.stage_folder("ppo") / "model"))
    assert any(not torch.equal(tensor, trained[name]) for name, tensor in read_folder(Path(model)))
    final: Any = context.job.stages["final"]
    context.begin("final")
    figures = EvaluateKind(final).run(context, "final")
    assert figures["results"][0]["n"] == 8
