"""The weight paths from device to device, which no CPU runs: NCCL between two devices, CUDA IPC on a shared one."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest
import ray
import torch

from rayalign.actors.learner import LearnerSpec
from rayalign.cluster.channel import WeightChannel, sites
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import start_roles
from rayalign.config import ClusterConfig, LearnerConfig, RoleConfig, RolloutConfig
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from rayalign.storage.events import EventLog
from rayalign.weights.paths.base import PathConfig
from rayalign.weights.paths.choice import choose_path
from rayalign.weights.probe import Bound, probe_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
CLUSTER = ClusterConfig(call_timeout=300.0)
TOKENS = probe_tokens(100)


async def transfer_by(expected: str, model: str, share: float, events: EventLog) -> list[float]:
    """The gaps of two versions; learner and engine claim `share` of a device each."""
    rollout = RolloutConfig(engine="vllm", engines=1, context=64, dtype="bfloat16", gpus=share)
    pool = await start_pool("vllm", model, rollout, CLUSTER, events)
    spec = LearnerSpec(model, LearnerConfig(precision="bf16"), {"name": "sft"}, 1.0, 1, 0, 300.0)
    roles = await start_roles({"policy": spec}, {"policy": RoleConfig(gpus=share)}, CLUSTER, events)
    try:
        policy = roles["policy"]
        path, _ = choose_path("auto", sites(policy), sites(pool.group), vllm=True)
        assert path == expected
        config = PathConfig(name=path, timeout=120.0)
        channel = WeightChannel(TOKENS, bound=Bound("bf16"), path=config, events=events)
        return [(await channel.transfer(policy, pool, version)).gap for version in (0, 1)]
    finally:
        roles.stop()
        pool.stop()


@pytest.mark.parametrize(("path", "share", "devices"), [("ipc", 0.5, 1), ("nccl", 1.0, 2)])
def test_weights_travel_from_device_to_device(path: str, share: float, devices: int, tmp_path: Path) -> None:
    if torch.cuda.device_count() < devices:
        pytest.skip(f"needs {devices} devices")
    model = tmp_path / "model"
    make_preset("nano", build_tokenizer(), 0, model)
    ray.init(num_gpus=devices, include_dashboard=False)
    try:
        gaps = asyncio.run(transfer_by(path, str(model), share, EventLog(tmp_path / "events.jsonl")))
    finally:
        ray.shutdown()
    assert all(gap < 0.15 for gap in gaps)
