from __future__ import annotations

import pytest
import torch
from torch import nn

from rayalign.models.averaging import WeightAverage


@pytest.fixture
def module() -> nn.Module:
    """One trained weight of 1, and one that is frozen."""
    module = nn.Module()
    module.trained = nn.Parameter(torch.tensor([1.0]))
    module.frozen = nn.Parameter(torch.tensor([5.0]), requires_grad=False)
    return module


def values(module: nn.Module) -> list[float]:
    return [float(module.trained), float(module.frozen)]


def test_each_step_goes_the_same_share_of_the_way(module: nn.Module) -> None:
    average = WeightAverage(module, decay=0.75)
    module.trained.data.fill_(2.0)
    average.update()
    module.trained.data.fill_(4.0)
    average.update()
    with average.in_place():
        # 0.75 * 1 + 0.25 * 2 = 1.25, then 0.75 * 1.25 + 0.25 * 4
        assert values(module) == [1.9375, 5.0]
    assert values(module) == [4.0, 5.0]


def test_the_weights_return_after_a_failure(module: nn.Module) -> None:
    average = WeightAverage(module, decay=0.75)
    module.trained.data.fill_(2.0)
    with pytest.raises(ZeroDivisionError), average.in_place():
        raise ZeroDivisionError
    assert values(module) == [2.0, 5.0]


def test_its_state_goes_on(module: nn.Module) -> None:
    average = WeightAverage(module, decay=0.75)
    module.trained.data.fill_(2.0)
    average.update()
    later = WeightAverage(module, decay=0.75)
    (piece,), (saved,) = later.pieces(0), average.pieces(0)
    assert piece.key == saved.key == "average/trained"
    piece.values.copy_(saved.values)
    with later.in_place():
        assert values(module) == [1.25, 5.0]


def test_small_steps_are_not_lost_beside_weights_of_16_bits(module: nn.Module) -> None:
    module.to(torch.bfloat16)
    average = WeightAverage(module, decay=0.999)
    module.trained.data.fill_(2.0)
    for _ in range(1000):
        average.update()
    (saved,) = average.pieces(0)
    assert saved.values.item() == pytest.approx(2 - 0.999**1000, abs=1e-4)
