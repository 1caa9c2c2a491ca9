"""The engines of the contract suite; vLLM's live in a process of their own, since vLLM changes its process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rayalign.config.sections import RolloutConfig
from rayalign.rollout import build
from rayalign.rollout.base import Engine
from rayalign.rollout.scripted import ScriptedEngine, random_table
from rayalign.rollout.vllm import environment
from rayalign.weights.sets import WeightSet

VOCAB = 128
CONFIG = RolloutConfig(context=64, max_sequences=16, cache_bytes=8 << 20)
Weights = dict[str, Tensor]


@dataclass
class Pair:
    """Two engines of one architecture: the first is updated by the tests, the second stays as built."""

    engine: Engine
    fresh: Engine
    first: Weights
    """what `engine` was built with"""
    second: Weights
    """what `fresh` was built with"""
    score: Callable[[Weights, Sequence[int]], list[float]]
    """log-probs by a plain forward pass, of each token after the first"""


def weights(tensors: Weights, version: int) -> WeightSet:
    return WeightSet("full", version, tensors.items())


@contextmanager
def scripted_pair() -> Iterator[Pair]:
    first, second = random_table(VOCAB, 1), random_table(VOCAB, 2)

    def score(weights: Weights, ids: Sequence[int]) -> list[float]:
        logprobs = weights["bigram.weight"].log_softmax(-1)
        return [float(logprobs[a, b]) for a, b in zip(ids, ids[1:], strict=False)]

    engines = [ScriptedEngine(table, context=CONFIG.context) for table in (first, second)]
    yield Pair(*engines, {"bigram.weight": first}, {"bigram.weight": second}, score)


@contextmanager
def model_pair(name: str, tied: bool, folder: Path) -> Iterator[Pair]:
    first, second = (_save_model(folder / str(seed), seed, tied) for seed in (1, 2))
    score = _forward(folder / "1")
    if name == "local":
        yield Pair(*(build("local", str(folder / k), CONFIG) for k in ("1", "2")), first, second, score)
        return
    with patch.dict(os.environ, environment(CONFIG)):
        pool = ProcessPoolExecutor(1, get_context("spawn"), _open, ([str(folder / "1"), str(folder / "2")],))
        pool.submit(int).result(500)
    yield Pair(_Remote(pool, 0), _Remote(pool, 1), first, second, score)
    pool.shutdown()


def _save_model(path: Path, seed: int, tied: bool) -> Weights:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    return {k: p.detach() for k, p in model.named_parameters()}


def _forward(path: Path) -> Callable[[Weights, Sequence[int]], list[float]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path)

    def score(weights: Weights, ids: Sequence[int]) -> list[float]:
        ids_T = torch.tensor(ids)
        with torch.no_grad():
            logits_TV = torch.func.functional_call(model, weights, (ids_T[None],)).logits[0, :-1]
        return logits_TV.log_softmax(-1).gather(-1, ids_T[1:, None])[:, 0].tolist()

    return score


class _Remote:
    """An engine in the other process."""

    def __init__(self, pool: ProcessPoolExecutor, index: int) -> None:
        self._pool, self._index = pool, index

    def __getattr__(self, name: str) -> Any:
        if name in ("version", "pending", "in_flight"):
            return self._pool.submit(_read, self._index, name).result(300)
        return lambda *args, **more: self._pool.submit(_do, self._index, name, args, more).result(300)

    def load(self, weights: WeightSet) -> None:
        arrays = {name: tensor.numpy() for name, tensor in weights.tensors}
        self._pool.submit(_load, self._index, arrays, weights.version).result(300)


_engines: list[Engine] = []


def _open(paths: list[str]) -> None:
    torch.set_num_threads(1)
    _engines.extend(build("vllm", path, CONFIG) for path in paths)


def _read(index: int, name: str) -> Any:
    return getattr(_engines[index], name)


def _do(index: int, name: str, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    return getattr(_engines[index], name)(*args, **more)


def _load(index: int, arrays: dict[str, Any], version: int) -> None:
    _engines[index].load(weights({name: torch.from_numpy(array) for name, array in arrays.items()}, version))
