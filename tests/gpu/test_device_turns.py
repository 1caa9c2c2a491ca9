"""Policy, critic and engine on one GPU: what leaves it is really free, and comes back as it was."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.config import load_job
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.online import open_parts, train_online
from rayalign.storage.metrics import read_metrics
from rayalign.weights.probe import probe_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
CACHE = 2 << 30
JOB = """\
name: shared
cluster: {{gpus: 1, share_devices: true}}
rollout: {{engine: vllm, engines: 1, gpus: 1, context: 64, dtype: bfloat16, cache_bytes: {cache}}}
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
    learner: {{minibatch: 4, micro_tokens: 512, precision: bf16, zero_stage: {stage}}}
    roles: {{policy: {{gpus: 0.5}}, critic: {{gpus: 0.5}}}}
"""


@pytest.fixture(params=[1, 3])
def context(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunContext]:
    make_preset("small", build_tokenizer(), 0, tmp_path / "model")
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(model=tmp_path / "model", cache=CACHE, stage=request.param))
    loaded = load_job(path, [f"output={tmp_path / 'runs'}"])
    with RunContext(loaded, Inputs(loaded)) as run:
        yield run


def free_bytes() -> int:
    return torch.cuda.mem_get_info(0)[0]


async def measure(context: RunContext, stage: Any) -> tuple[int, int]:
    """Bytes that the learner frees, and that the engine claims once it has gone."""
    async with open_parts(context, "ppo", stage) as (parts, _):
        tokens = probe_tokens(100)
        policy = parts.roles["policy"]
        before = await policy.first(lambda actor: actor.probe.remote(tokens))
        full = free_bytes()
        await parts.turns.offload("policy", ("weights", "training"))
        without_policy = free_bytes()
        await parts.turns.reload("policy", ("weights", "training"))
        assert await policy.first(lambda actor: actor.probe.remote(tokens)) == before
        await parts.turns.enter("publish")
        waiting = free_bytes()
        await parts.turns.enter("rollout")
        return without_policy - full, waiting - free_bytes()


def test_what_leaves_a_gpu_is_free_and_comes_back_as_it_was(context: RunContext) -> None:
    stage: Any = context.job.stages["ppo"]
    freed, claimed = asyncio.run(measure(context, stage))
    weights = sum(file.stat().st_size for file in Path(stage.model).glob("*.safetensors")) // 2
    assert freed > 2 * weights  # bf16 weights, and beside them a master copy in fp32
    assert claimed > CACHE // 2  # the cache came, and the policy's weights went
    asyncio.run(train_online(context, "ppo", stage))
    rows = read_metrics(context.stage_folder("ppo") / "metrics.jsonl")
    assert all(row["metrics"]["publish/probe_gap"] < 0.15 for row in rows)
