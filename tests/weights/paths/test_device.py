"""The calls of the device paths, with a trainer engine that makes them as vLLM's does and moves no tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayalign.weights.buckets import TensorSpec
from rayalign.weights.paths.base import PathConfig
from rayalign.weights.paths.device import BUFFER_BYTES, DevicePath
from rayalign.weights.sets import DeviceSet, WeightSet
from tests.weights.paths.conftest import WAIT, Send, Tensors

SPECS = tuple(TensorSpec(f"layer.{i}", "float32", (32, 32)) for i in range(10))


class RecordingTrainer:
    """vLLM's trainer engine without a transfer: the handshake, then one update for all tensors."""

    def __init__(self, config: PathConfig, **arguments: Any) -> None:
        self.arguments = arguments
        self.client = arguments["client"]
        self.shut = False
        if arguments["rank"] == 0:
            settings = {"rank_offset": 1, "world_size": arguments["world"]} if config.name == "nccl" else {}
            self.client.init_weight_transfer_engine({**settings, "packed": True})

    def send_weights(self) -> None:
        names = [name for name, _ in self.arguments["source"]]
        if self.arguments["rank"] == 0:
            self.client.start_weight_update()
            self.client.update_weights({"names": names})
            self.client.finish_weight_update()

    def shutdown(self) -> None:
        self.shut = True


def read_calls(weights: WeightSet) -> list[tuple[str, Any]]:
    assert isinstance(weights, DeviceSet)
    return list(weights.calls)


@pytest.fixture
def made() -> list[RecordingTrainer]:
    return []


def path_of(name: Any, made: list[RecordingTrainer], tensor_parallel: int = 1) -> DevicePath:
    def join(config: PathConfig, **arguments: Any) -> RecordingTrainer:
        made.append(RecordingTrainer(config, **arguments))
        return made[-1]

    return DevicePath(PathConfig(name=name, timeout=WAIT, tensor_parallel=tensor_parallel), join)


def test_engines_get_ranks_of_their_own(send: Send, tensors: Tensors, made: list[RecordingTrainer]) -> None:
    trainer, *engines = (path_of("nccl", made, tensor_parallel=2) for _ in range(4))
    size, calls = send(trainer, engines, WeightSet("full", 1, tensors.items(), SPECS), read_calls)
    assert size == 10 * 4096
    assert made[0].arguments["world"] == 7  # the trainer, and three engines of two devices
    assert [call[0][1]["init_info"]["rank_offset"] for call in calls] == [1, 3, 5]


def test_the_ends_meet_once_and_every_version_is_one_update(
    send: Send, tensors: Tensors, made: list[RecordingTrainer]
) -> None:
    trainer, engine = (path_of("ipc", made) for _ in range(2))
    methods = []
    for version in (1, 2):
        weights = WeightSet("full", version, tensors.items(), SPECS)
        _, (calls,) = send(trainer, [engine], weights, read_calls)
        methods.append([method for method, _ in calls])
    update = ["start_weight_update", "update_weights", "finish_weight_update"]
    assert methods == [["init_weight_transfer_engine", *update], update]
    assert len(made) == 1
    trainer.close()
    assert made[0].shut


def test_the_buffer_holds_the_largest_tensor(send: Send, made: list[RecordingTrainer]) -> None:
    """vLLM refuses a tensor that is larger than the buffer of a packed message."""
    specs = (TensorSpec("embed", "bfloat16", (152_064, 3584)), TensorSpec("norm", "bfloat16", (3584,)))
    tensors = [(spec.name, torch.zeros(1)) for spec in specs]
    for sent in (specs, specs[1:]):
        trainer, engine = (path_of("ipc", made) for _ in range(2))
        send(trainer, [engine], WeightSet("full", 1, tensors, sent), read_calls)
    assert [trainer.arguments["buffer_bytes"] for trainer in made] == [152_064 * 3584 * 2, BUFFER_BYTES]


def test_other_ranks_only_gather(tensors: Tensors, made: list[RecordingTrainer]) -> None:
    reads = iter(tensors.items())
    assert path_of("nccl", made).send(WeightSet("full", 1, reads, SPECS), None) == 0
    assert made[0].arguments["rank"] != 0
    assert next(reads, None) is None
