"""A vLLM engine on two ranks inside a placement group."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.cluster.channel import load_folder, prove
from rayalign.cluster.pool_start import start_pool
from rayalign.config import ClusterConfig, RolloutConfig
from rayalign.storage.events import EventLog
from rayalign.weights.probe import Probe, probe_tokens, tolerance

pytestmark = [
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
TOKENS = probe_tokens(100)


def probe_of(model: str) -> Probe:
    plain = AutoModelForCausalLM.from_pretrained(model)
    ids_BT = torch.tensor(TOKENS)
    with torch.no_grad():
        logprobs_BTV = plain(ids_BT).logits[:, :-1].log_softmax(-1)
    logprobs_BT = logprobs_BTV.gather(-1, ids_BT[:, 1:, None])[:, :, 0]
    return Probe(0, TOKENS, tuple(map(tuple, logprobs_BT.tolist())), tolerance("fp32"))


def test_an_engine_on_two_ranks_starts_reloads_and_agrees_with_the_trainer(
    ray_session: None, model: str, events: EventLog
) -> None:
    config = RolloutConfig(engine="vllm", engines=1, tensor_parallel=2, context=64, max_sequences=8, cpus=0.5)
    pool = asyncio.run(start_pool("vllm", model, config, ClusterConfig(call_timeout=300.0), events))
    try:
        assert asyncio.run(prove(pool, probe_of(model), 120.0)) < 1e-4
        asyncio.run(load_folder(pool, model, probe_of(model), 120.0))
    finally:
        pool.stop()
