"""A job of well-known models on eight devices, and machines to plan it for; nothing of it has to exist here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import ClusterFile, Job, load_job
from rayalign.forecast.hardware import Hardware, sizes_of

JOB = """\
name: study
rollout: {engine: local, engines: 2, gpus: 1, context: 512, dtype: bfloat16}
stages:
  rl:
    kind: train
    algorithm: {name: grpo}
    model: Qwen/Qwen2.5-0.5B
    reward: Qwen/Qwen2.5-1.5B
    candidates: [{source: live, count: 4}]
    sampling: {max_tokens: 256}
    learner: {minibatch: 64, precision: bf16, zero_stage: 3}
    roles: {policy: {actors: 2, gpus: 1}, reference: {gpus: 0.5}, reward: {gpus: 0.5}}
    prompts: 32
    iterations: 100
"""

JobOf = Callable[..., Job]
Machines = Callable[..., Hardware]


@pytest.fixture
def job_of(tmp_path: Path) -> JobOf:
    """The job with overrides."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)

    def make(*overrides: str) -> Job:
        return load_job(path, [f"output={tmp_path}", *overrides]).job

    return make


@pytest.fixture
def machines() -> Machines:
    """Machines of so many devices."""

    def make(
        devices: int = 8, device: str = "H100", count: int = 1, price: float | None = 20.0, memory: float = 512
    ) -> Hardware:
        node = {"count": count, "cpus": 64, "memory": memory, "link": 450, "price": price}
        if devices:
            node |= {"devices": devices, "device": device}
        file = ClusterFile.model_validate({"nodes": {"box": node}, "network": 400})
        return next(sizes_of(file, "test"))

    return make
