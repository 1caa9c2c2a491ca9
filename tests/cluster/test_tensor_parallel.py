"""A vLLM engine on two ranks inside a placement group."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.actors.learner import LearnerSpec
from rayalign.cluster.channel import WeightChannel, load_folder, prove
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import start_roles
from rayalign.config import ClusterConfig, LearnerConfig, RolloutConfig
from rayalign.storage.events import EventLog
from rayalign.weights.paths.base import PathConfig
from rayalign.weights.probe import Bound, Probe, probe_tokens, tolerance
from tests.cluster.test_pool import generate, requests, update

pytestmark = [
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
TOKENS = probe_tokens(100)
CLUSTER = ClusterConfig(call_timeout=300.0)


def probe_of(model: str) -> Probe:
    plain = AutoModelForCausalLM.from_pretrained(model)
    ids_BT = torch.tensor(TOKENS)
    with torch.no_grad():
        logprobs_BTV = plain(ids_BT).logits[:, :-1].log_softmax(-1)
    logprobs_BT = logprobs_BTV.gather(-1, ids_BT[:, 1:, None])[:, :, 0]
    return Probe(0, TOKENS, tuple(map(tuple, logprobs_BT.tolist())), tolerance("fp32"))


def test_an_engine_on_two_ranks_starts_reloads_writes_and_agrees_with_the_trainer(
    ray_session: None, model: str, events: EventLog
) -> None:
    config = RolloutConfig(engine="vllm", engines=1, tensor_parallel=2, context=64, max_sequences=8, cpus=0.5)
    pool = asyncio.run(start_pool("vllm", model, config, CLUSTER, events))
    try:
        assert asyncio.run(prove(pool, probe_of(model), 120.0)) < 1e-4
        asyncio.run(load_folder(pool, model, probe_of(model), 120.0))
        spec = LearnerSpec(
            model,
            LearnerConfig(learning_rate=1e-2, minibatch=4),
            {"name": "sft"},
            temperature=1.0,
            total_steps=10,
            seed=0,
            timeout=60.0,
        )
        roles = asyncio.run(start_roles({"policy": spec}, {}, CLUSTER, events))
        try:
            update(roles["policy"])
            path = PathConfig(name="store", timeout=120.0, tensor_parallel=2)
            channel = WeightChannel(TOKENS, bound=Bound("fp32"), path=path, events=events)
            assert asyncio.run(channel.transfer(roles["policy"], pool, 1)).gap < 1e-4
        finally:
            roles.stop()
        first, second = generate(pool, requests(2))
        assert first.version_runs == second.version_runs == ((0, 1),)
        assert first.tokens != second.tokens, "each candidate is drawn by its own seed"
    finally:
        pool.stop()
