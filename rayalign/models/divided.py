"""Units too large for one forward pass: a group of many candidates in parts, with the gradient of the whole.

The loss of a unit needs the outputs of all its rows, but by the chain rule its gradient is a sum over rows. So a first
pass without gradient computes the outputs of each part, the loss gives its gradient by each output, and a second pass
takes each part with its own share of these, as gradient caching does (Gao 2021, arXiv 2101.06983, section 3.2). It
costs one more forward pass, and holds the activations of one part at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rayalign.models.batching import micro_rows, trim
from rayalign.models.objective import Piece
from rayalign.types import Batch, LossSum, Metrics, Minibatch, Outputs

Read = Callable[[Piece | None], Outputs]
"""the outputs for a micro-batch without gradient, on the device; None: a pass that only takes part"""
_FIELDS = tuple(field.name for field in fields(Outputs))


@dataclass(frozen=True, slots=True)
class _Linear:
    """The loss of a part: the sum of its outputs times their known gradients."""

    gradients: Mapping[str, Tensor]
    """of the unit's loss sum by the outputs for these rows, by the name of the output"""
    normaliser: float
    """the whole unit's"""
    metrics: Metrics

    def __call__(self, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        terms = [(getattr(outputs, name) * gradient).sum() for name, gradient in self.gradients.items()]
        return LossSum(torch.stack(terms).sum(), self.normaliser, self.metrics)


def divided(pieces: list[Piece], token_budget: int, read: Read, together: Callable[[int], int]) -> list[Piece]:
    """The micro-batches, each unit of several rows that is over the budget in parts.

    Args:
        together: from the passes of this rank without gradient to those that all ranks make.
    """
    passes = sum(len(parts_of(piece.batch, token_budget)) for piece in pieces if is_large(piece.batch, token_budget))
    rounds = together(passes)  # before the first pass: all ranks call the same collectives in the same order
    result: list[Piece] = []
    for piece in pieces:
        if is_large(piece.batch, token_budget):
            result += _parts(piece, token_budget, read)
        else:
            result.append(piece)
    for _ in range(rounds - passes):
        read(None)
    return result


def is_large(batch: Batch, token_budget: int) -> bool:
    """Whether several rows that belong together are over the budget; a single row cannot be divided."""
    return len(batch) > 1 and batch["attention_mask_BT"].numel() > token_budget


def parts_of(batch: Batch, token_budget: int) -> list[Tensor]:
    """Row numbers of a large unit's parts, each within the budget where its rows are."""
    return micro_rows(Batch(batch.tensors, torch.arange(len(batch))), token_budget)


def _parts(piece: Piece, token_budget: int, read: Read) -> Iterator[Piece]:
    """The parts of a large unit, whose losses are linear: the whole loss is known by then."""
    rows = parts_of(piece.batch, token_budget)
    own = [replace(piece, batch=trim(piece.batch.rows(rows_N))) for rows_N in rows]
    whole: dict[str, Tensor] = {}
    for rows_N, part in zip(rows, own, strict=True):
        for name, output in _present(read(part)):
            if name not in whole:
                shape = piece.batch["input_ids_BT"].shape[: output.dim()]
                whole[name] = torch.zeros(shape, dtype=torch.float32, device=output.device)
            whole[name][_place(piece.batch, rows_N, output)] = output.float()
    loss_sum, gradients = _gradients(piece, whole)
    metrics = loss_sum.metrics
    for rows_N, part in zip(rows, own, strict=True):
        shares = {name: gradient[_place(piece.batch, rows_N, gradient)] for name, gradient in gradients.items()}
        yield replace(part, loss=_Linear(shares, loss_sum.normaliser, metrics))
        metrics = {}  # the unit has them once


def _gradients(piece: Piece, whole: Mapping[str, Tensor]) -> tuple[LossSum, dict[str, Tensor]]:
    """The loss of a unit, and its gradient by each output; NaN where the loss is not finite, so that the step fails."""
    leaves = {name: output.requires_grad_() for name, output in whole.items()}
    device = next(iter(leaves.values())).device
    batch = Batch({name: tensor.to(device) for name, tensor in piece.batch.tensors.items()}, piece.batch.unit_B)
    loss_sum = piece.loss(Outputs(**leaves), batch)
    poison = 1.0 if bool(loss_sum.numerator.isfinite()) else float("nan")
    shares = torch.autograd.grad(loss_sum.numerator * poison, list(leaves.values()), allow_unused=True)
    present = {name: share for name, share in zip(leaves, shares, strict=True) if share is not None}
    return loss_sum, present


def _present(outputs: Outputs) -> Iterator[tuple[str, Tensor]]:
    for name in _FIELDS:
        output = getattr(outputs, name)
        if output is not None:
            yield name, output


def _place(batch: Batch, rows_N: Tensor, output: Tensor) -> tuple[Tensor, ...]:
    """Where the outputs for trimmed rows stand among those of the whole unit."""
    here_N = rows_N.to(output.device)
    if output.dim() == 1:
        return (here_N,)
    used = batch["attention_mask_BT"][rows_N].any(dim=0).nonzero().flatten()
    return here_N[:, None], torch.arange(int(used[0]), int(used[-1]) + 1, device=output.device)
