"""What one rank holds of the trained weights and of Adam's moments, as pieces that name their place in the whole.

A piece is a run of elements of one parameter, flattened. DeepSpeed lays such runs into flat tensors, in one layout for
each ZeRO stage and number of ranks; this module alone knows these layouts.

    stage 0        each parameter is whole on every rank
    stages 1, 2    the flat tensor of all parameters is cut into one part for each rank, through a parameter too
    stage 3        each parameter is cut into one part for each rank, the last one padded
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive elements of a whole tensor; writing into `values` sets them."""

    key: str
    """what the whole tensor is, the same in every layout"""
    start: int
    """of the first element in the whole tensor"""
    values: Tensor
    """flat"""
    shared: bool = False
    """every rank holds these elements"""


@dataclass(frozen=True, slots=True)
class _Run:
    """Where a rank's elements of one parameter lie in the tensor that the optimizer updates."""

    name: str
    start: int
    updated: Tensor
    offset: int
    count: int
    shared: bool = False

    def piece(self, kind: str, tensor: Tensor) -> Piece:
        """The elements of this run in a tensor that is laid out as the updated one."""
        values = tensor.detach().view(-1)[self.offset : self.offset + self.count]
        return Piece(f"{kind}/{self.name}", self.start, values, self.shared)


def trained_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all trained parameters when they are whole."""
    shapes = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            shapes[name] = tuple(getattr(parameter, "ds_shape", parameter.shape))
    return shapes


def engine_pieces(engine: Any, stage: int, rank: int) -> list[Piece]:
    """This rank's pieces of the weights, in fp32, and of Adam's moments, which are zero before the first step."""
    pieces: list[Piece] = []
    for run in _runs(engine, stage, rank):
        pieces.append(run.piece("weight", run.updated))
        state = _adam_state(engine, run.updated)
        for moment in MOMENTS:
            pieces.append(run.piece(moment, state[moment]))
    return pieces


def adam_steps(engine: Any) -> float:
    """The steps that Adam has taken, by which it corrects its moments."""
    return max(float(state["step"]) for state in engine.basic_optimizer.state.values())


def weights_changed(engine: Any, stage: int, steps: float) -> None:
    """Go on from pieces that were written into: the model takes the new weights, and Adam counts from `steps`."""
    for state in engine.basic_optimizer.state.values():
        state["step"].fill_(steps)
    optimizer = engine.optimizer
    if stage in (1, 2):
        optimizer.update_lp_params()
    if stage == 3:
        optimizer.checkpoint_event_prologue()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()


def average_pieces(averages: dict[str, Tensor], module: nn.Module, rank: int) -> list[Piece]:
    """The pieces of a moving average, which lies in the parts that the rank has of the weights."""
    pieces = []
    for name, parameter in module.named_parameters():
        if name in averages:
            values = averages[name].view(-1)
            start = rank * values.numel() if hasattr(parameter, "ds_tensor") else 0
            values = values[: _whole_count(parameter) - start]
            pieces.append(Piece(f"average/{name}", start, values, shared=not hasattr(parameter, "ds_tensor")))
    return pieces


def _runs(engine: Any, stage: int, rank: int) -> Iterator[_Run]:
    """The runs of all trained parameters of which this rank has elements."""
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if stage == 0:
            yield _Run(name, 0, parameter, 0, parameter.numel(), shared=True)
        elif stage == 3:
            yield _partitioned_run(engine.optimizer, name, parameter, rank)
        elif parameter._hp_mapping is not None:
            mapping = parameter._hp_mapping
            flat = engine.basic_optimizer.param_groups[mapping.param_group_index]["params"][0]
            place = mapping.get_hp_fragment_address()
            yield _Run(name, mapping.lp_fragment_address.start, flat, place.start, place.numel)


def _partitioned_run(optimizer: Any, name: str, parameter: nn.Parameter, rank: int) -> _Run:
    group, offset, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = rank * count
    unpadded = max(0, min(count, _whole_count(parameter) - start))
    return _Run(name, start, optimizer.fp32_partitioned_groups_flat[group], offset, unpadded)


def _whole_count(parameter: Tensor) -> int:
    count: int = getattr(parameter, "ds_numel", parameter.numel())
    return count


def _adam_state(engine: Any, updated: Tensor) -> dict[str, Tensor]:
    """Adam's state of a tensor; before the first step the one that Adam itself would begin with."""
    state: dict[str, Tensor] = engine.basic_optimizer.state[updated]
    if not state:
        state["step"] = torch.zeros((), device=updated.device)  # where a fused Adam wants it
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(updated, requires_grad=False)
    return state
