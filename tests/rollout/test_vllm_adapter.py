"""A policy with an adapter on the real vLLM: beside its base and merged, it computes what the trainer does."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.config import LoraConfig, RolloutConfig, SamplingConfig
from rayalign.models.lora import adapter_off, add_adapter
from rayalign.models.whole import WholeTensors
from rayalign.rollout.base import Request
from rayalign.rollout.vllm import environment
from rayalign.weights.probe import Probe, check, tolerance
from rayalign.weights.sets import Form, WeightSet
from tests.rollout.engines import _save_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
CONFIG = RolloutConfig(context=64, max_sequences=16, cache_bytes=8 << 20)
LORA = LoraConfig(rank=4, alpha=8.0)
TOKENS = ((5, 6, 7, 8, 9, 10, 11), (1, 2, 3), (99, 98, 97, 96))
Rows = list[list[float]]


@dataclass
class Policy:
    """A model with a trained adapter, as a learner holds it."""

    model: Any

    def send(self, version: int, form: Form) -> dict[str, Any]:
        tensors = WholeTensors(self.model, LORA, stage=0, rank=0).weights(version, form)
        arrays = {name: tensor.numpy() for name, tensor in tensors.tensors}
        return {"kind": tensors.kind, "version": version, "arrays": arrays, "adapter": tensors.adapter}

    @torch.no_grad()
    def score(self) -> Rows:
        rows = []
        for ids in TOKENS:
            ids_T = torch.tensor(ids)
            logprobs_TV = self.model(ids_T[None]).logits[0, :-1].log_softmax(-1)
            rows.append(logprobs_TV.gather(-1, ids_T[1:, None])[:, 0].tolist())
        return rows


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    """The policy, and the folder of its base."""
    folder = tmp_path_factory.mktemp("base")
    _save_model(folder, 1, tied=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_adapter(model, LORA, seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    return Policy(model.eval()), folder


_engines: list[Any] = []


def _open(folder: str) -> None:
    from rayalign.rollout import build

    torch.set_num_threads(1)
    _engines.append(build("vllm", folder, CONFIG, LORA))


def _load(kind: Any, version: int, arrays: dict[str, Any], adapter: LoraConfig | None) -> Rows:
    """Load a set and return the scores."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    _engines[0].load(WeightSet(kind, version, tensors.items(), adapter=adapter))
    rows: Rows = _engines[0].score(TOKENS)
    return rows


def _write(seed: int) -> tuple[tuple[int, ...], list[float]]:
    engine = _engines[0]
    engine.submit(Request("c", (5, 6, 7), seed, SamplingConfig(max_tokens=8), ()))
    while engine.pending:
        for candidate in engine.step():
            return candidate.tokens, list(candidate.logprobs)
    raise AssertionError("nothing came")


@pytest.fixture(scope="module")
def engine(policy: tuple[Policy, Path]) -> Iterator[ProcessPoolExecutor]:
    with patch.dict(os.environ, environment(CONFIG)):
        pool = ProcessPoolExecutor(1, get_context("spawn"), _open, (str(policy[1]),))
        pool.submit(int).result(500)
    yield pool
    pool.shutdown()


def test_an_adapter_beside_its_base_and_merged_weights_compute_what_the_trainer_does(
    policy: tuple[Policy, Path], engine: ProcessPoolExecutor
) -> None:
    trainer = policy[0]
    probe = Probe(1, TOKENS, tuple(map(tuple, trainer.score())), tolerance("fp32"))
    with adapter_off(trainer.model):
        base = Probe(1, TOKENS, tuple(map(tuple, trainer.score())), tolerance("fp32"))
    rows = {}
    for name, form in (("base", "base"), ("separate", "adapter"), ("merged", "merged")):
        rows[name] = engine.submit(_load, **trainer.send(1, form)).result(300)  # type: ignore[arg-type]
    assert check(base, rows["base"]) < 1e-4
    assert check(probe, rows["separate"]) < 1e-4
    assert check(probe, rows["merged"]) < 1e-4
    flat = [
        abs(a - b)
        for one, other in zip(rows["base"], rows["merged"], strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    assert max(flat) > 0.05, "the adapter changes nothing, so that this test would prove nothing"


def test_a_new_version_of_the_adapter_takes_the_place_of_the_one_before(
    policy: tuple[Policy, Path], engine: ProcessPoolExecutor
) -> None:
    trainer = policy[0]
    engine.submit(_load, **trainer.send(2, "base")).result(300)
    engine.submit(_load, **trainer.send(2, "adapter")).result(300)
    first = engine.submit(_write, 3).result(300)
    for name, parameter in trainer.model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.mul_(-3.0)
    probe = Probe(3, TOKENS, tuple(map(tuple, trainer.score())), tolerance("fp32"))
    assert check(probe, engine.submit(_load, **trainer.send(3, "adapter")).result(300)) < 1e-4
    separate = engine.submit(_write, 3).result(300)
    engine.submit(_load, **trainer.send(4, "merged")).result(300)
    merged = engine.submit(_write, 3).result(300)
    assert separate != first
    assert separate[0] == merged[0]
    assert separate[1] == pytest.approx(merged[1], abs=1e-4)
