"""The device paths against the installed vLLM: its classes take the names and arguments that ours use.

No tensor travels here, since NCCL and CUDA IPC need devices; tests/gpu has the transfers themselves.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from multiprocessing import get_context
from typing import Any, Literal
from unittest.mock import patch

import pytest

from rayalign.config import RolloutConfig
from rayalign.rollout.vllm import environment
from rayalign.weights.buckets import TensorSpec
from rayalign.weights.paths.base import PathConfig
from rayalign.weights.paths.device import EngineClient, ReplayedSource, _vllm_trainer
from rayalign.weights.sets import WeightSet

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
SPEC = TensorSpec("w", "bfloat16", (2, 3))
METHODS: dict[str, dict[str, Any]] = {
    "init_weight_transfer_engine": {"init_info": {}},
    "start_weight_update": {},
    "update_weights": {"update_info": {}},
    "finish_weight_update": {},
}
"""of vLLM's workers, with the arguments that ours call them with"""


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: vLLM changes the one that imports it."""
    with patch.dict(os.environ, environment(RolloutConfig())):
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        pool.submit(int).result(300)
    yield pool
    pool.shutdown()


def _opened(name: Literal["nccl", "ipc"]) -> dict[str, Any]:
    """What vLLM's factory gets from our trainer side."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    signature = inspect.signature(WeightTransferTrainerFactory.trainer_init)

    def trainer_init(init: Any, **arguments: Any) -> dict[str, Any]:
        signature.bind(init, **arguments)
        return {"backend": init.backend, **asdict(init)}

    config = PathConfig(name=name, timeout=1.0, address="10.0.0.1", port=1234)
    source = ReplayedSource(WeightSet("full", 1, (), (SPEC,)))
    with patch.object(WeightTransferTrainerFactory, "trainer_init", trainer_init):
        opened: dict[str, Any] = _vllm_trainer(
            config, rank=0, world=3, buffer_bytes=1 << 20, client=EngineClient(1), source=source
        )
    return opened


def test_vllms_trainer_engines_are_made_from_what_the_path_knows(process: ProcessPoolExecutor) -> None:
    wanted = {"rank": 0, "packed": True, "packed_buffer_size_bytes": 1 << 20}
    assert wanted.items() <= process.submit(_opened, "ipc").result(300).items()
    rendezvous = {"backend": "nccl", "master_address": "10.0.0.1", "master_port": 1234, "world_size": 3}
    assert (wanted | rendezvous).items() <= process.submit(_opened, "nccl").result(300).items()


def _client_methods() -> dict[str, tuple[list[str], list[str]]]:
    """The parameters of each method of vLLM's client, in vLLM and here."""
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

    methods: dict[str, tuple[list[str], list[str]]] = {}
    for name, theirs in vars(VLLMWeightSyncClient).items():
        if not name.startswith("_"):
            ours = getattr(EngineClient, name)
            methods[name] = list(inspect.signature(theirs).parameters), list(inspect.signature(ours).parameters)
    return methods


def test_our_client_has_the_methods_of_vllms(process: ProcessPoolExecutor) -> None:
    methods = process.submit(_client_methods).result(300)
    assert set(methods) == set(METHODS)
    for name, (theirs, ours) in methods.items():
        assert ours == theirs, name


def _metadata() -> list[tuple[str, str, tuple[int, ...]]]:
    source = ReplayedSource(WeightSet("full", 1, (), (SPEC,)))
    return [(meta.name, str(meta.dtype), meta.shape) for meta in source.metadata()]


def test_vllm_is_told_of_each_tensor_before_it_is_gathered(process: ProcessPoolExecutor) -> None:
    assert process.submit(_metadata).result(300) == [("w", "torch.bfloat16", (2, 3))]


def _refused() -> list[str]:
    """What vLLM's workers and transfer engines do not take of our calls."""
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
    from vllm.v1.worker.gpu_worker import Worker

    refused = []
    for name, arguments in METHODS.items():
        try:
            inspect.signature(getattr(Worker, name)).bind(None, **arguments)
        except (AttributeError, TypeError) as error:
            refused.append(f"{name}: {error}")
    inspect.signature(WeightTransferEngineFactory.create_engine).bind(None, None, None, None)
    for backend in ("nccl", "ipc"):
        assert WeightTransferConfig(backend=backend).backend == backend  # type: ignore[arg-type]
    if "rank_offset" not in {field.name for field in fields(NCCLWeightTransferInitInfo)}:
        refused.append("rank_offset, by which each engine's workers get ranks of their own")
    return refused


def test_vllms_workers_take_our_calls(process: ProcessPoolExecutor) -> None:
    assert process.submit(_refused).result(300) == []
