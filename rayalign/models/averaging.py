"""An exponential moving average of a model's trained weights, as DeepSpeed-Chat and InstructGPT's critics keep one.

    average <- decay * average + (1 - decay) * weight        after each optimizer step

It lies in host memory in fp32, under ZeRO-3 in the parts that each rank has of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rayalign.models.engine_pieces import Piece, average_pieces

AVERAGE = "ema"
"""folder of the average inside the model's"""


class WeightAverage:
    """The average of the trained parameters, initialised with the current weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._module = module
        self._weights = {name: _own(weight) for name, weight in module.named_parameters() if weight.requires_grad}
        self._averages = {name: _copy(weight) for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the weights."""
        for name, weight in self._weights.items():
            self._averages[name].lerp_(weight.to("cpu", torch.float32), 1.0 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the weights by their average inside the `with` block."""
        weights = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._fill(self._averages)
        try:
            yield
        finally:
            self._fill(weights)

    def pieces(self, rank: int) -> list[Piece]:
        """What this rank has of the average; writing into the pieces sets it."""
        return average_pieces(self._averages, self._module, rank)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])


def _own(parameter: Tensor) -> Tensor:
    """What this rank has of a weight: all of it, or its part under ZeRO-3."""
    part: Tensor = getattr(parameter, "ds_tensor", parameter)
    return part.detach()


def _copy(weight: Tensor) -> Tensor:
    return weight.to("cpu", torch.float32, copy=True)
