"""Storages emptied into host memory and filled again, beneath every ZeRO stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rayalign.models.offload import DeviceState, HostCopies, learner_tensors
from tests.models.conftest import make_learner, settings, train, weights

ADAM = {"learning_rate": 0.01, "eps": 1e-8, "betas": (0.9, 0.95), "minibatch": 4}


def test_a_view_is_a_view_again_after_its_storage_was_away() -> None:
    flat = torch.arange(6.0)
    first, second = flat.narrow(0, 0, 3), flat.narrow(0, 3, 3)
    copies = HostCopies()
    copies.offload("weights", [first, second])
    assert flat.untyped_storage().nbytes() == 0
    copies.reload("weights")
    assert second.tolist() == [3.0, 4.0, 5.0]
    flat[0] = 9.0
    assert first[0] == 9.0


def test_what_lay_in_host_memory_beside_a_device_is_released_too() -> None:
    module = nn.Linear(2, 3)
    module.weight.grad = torch.ones(3, 2)
    DeviceState(module, None, torch.device("meta")).release()
    tensors = [module.weight, module.bias, module.weight.grad]
    assert [tensor.untyped_storage().nbytes() for tensor in tensors] == [0, 0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 0},
        {"zero_stage": 2},
        {"zero_stage": 3, "zero_live_parameters": 0},
        {"precision": "bf16", "zero_stage": 1},
        {"precision": "bf16", "zero_stage": 3},
        {"zero_stage": 0, "lora": {"rank": 4, "alpha": 8}},
    ],
    ids=str,
)
def test_training_goes_on_bit_by_bit_after_everything_was_away(folder: str, changes: dict[str, object]) -> None:
    learner = make_learner(folder, settings(**ADAM, **changes))
    twin = make_learner(folder, settings(**ADAM, **changes))
    for each in (learner, twin):
        for parameter in each._head.parameters():
            if not parameter.untyped_storage().resizable():
                # It maps a file here; nothing on a device does.
                parameter.data = parameter.data.clone()
        train(each)
    copies = HostCopies()
    tensors = learner_tensors(learner._head, learner._engine.optimizer, torch.device("cpu"))
    copies.offload("training", tensors["training"])
    probe = learner.score_probe([[4, 5, 6, 7]])
    copies.offload("weights", tensors["weights"])
    assert all(tensor.untyped_storage().nbytes() == 0 for part in tensors.values() for tensor in part)
    copies.reload("weights")
    copies.reload("training")
    assert probe == twin.score_probe([[4, 5, 6, 7]])
    train(learner)
    train(twin)
    torch.testing.assert_close(weights(learner), weights(twin), rtol=0, atol=0)
