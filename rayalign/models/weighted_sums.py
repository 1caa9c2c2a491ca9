"""Weighted sums of tensors and of low-rank factors: pure, on tensors alone.

A LoRA adapter moves a matrix by delta_i = (alpha_i / r_i) B_i A_i. Two sums of adapters are in use:

- `delta`: sum_i w_i delta_i, which is the soup of the merged models. It has rank sum_i r_i.
- `factor`: (alpha / r) (sum_i w_i B_i) (sum_i w_i A_i), as Personalized Soups publishes it. It keeps the rank r and
  holds cross terms of different adapters, so it is not the soup of the merged models.

Numbers of 16 bits are summed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from rayalign.errors import InputError

Mode = Literal["delta", "factor"]


def merge_tensors(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of equal shapes, in the type of the first; what holds no fractions must be equal in all.

    Raises:
        InputError: no tensors, weights that do not fit or are not finite, unlike shapes, or unlike whole numbers.
    """
    verify_weights(weights, len(tensors))
    first = tensors[0]
    for tensor in tensors[1:]:
        if tensor.shape != first.shape:
            raise InputError(
                f"shapes {tuple(first.shape)} and {tuple(tensor.shape)} cannot be merged; they must be equal"
            )
    if not first.dtype.is_floating_point:
        if not all(torch.equal(first, tensor) for tensor in tensors[1:]):
            raise InputError(f"tensors of {first.dtype} differ, and whole numbers have no average; they must be equal")
        return first.clone()
    precision = _precision(tensors)
    total = first.to(precision) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor.to(precision), alpha=weight)
    return total.to(first.dtype)


def merge_lora(
    factors: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float], *, alpha: float, mode: Mode
) -> Tensor:
    """What merged adapters add to one weight matrix [outputs, inputs], in the type of the first factor.

    Args:
        factors: A [rank, inputs] and B [outputs, rank] of each adapter.
        weights: one for each adapter.
        alpha: of all adapters; each product is scaled by alpha / rank.
        mode: `delta` for the sum of the products, `factor` for the product of the sums.

    Raises:
        InputError: weights that do not fit or are not finite, or shapes that do not; for `factor` also unlike ranks.
    """
    verify_weights(weights, len(factors))
    _verify_factors(factors)
    precision = _precision(list(chain.from_iterable(factors)))
    if mode == "factor":
        a = merge_tensors([a.to(precision) for a, _ in factors], weights)
        b = merge_tensors([b.to(precision) for _, b in factors], weights)
        delta = (b @ a) * (alpha / len(a))
    elif mode == "delta":
        products = [b.to(precision) @ a.to(precision) for a, b in factors]
        scaled = [weight * alpha / len(a) for (a, _), weight in zip(factors, weights, strict=True)]
        delta = merge_tensors(products, scaled)
    else:
        raise InputError(f"mode {mode!r} is unknown; use delta or factor")
    return delta.to(factors[0][0].dtype)


def verify_weights(weights: Sequence[float], count: int) -> None:
    """InputError unless there is one finite weight for each of `count` inputs, and at least one input."""
    if count == 0:
        raise InputError("merge: there is nothing to merge; give at least one input")
    if len(weights) != count:
        raise InputError(f"merge: {len(weights)} weights do not fit {count} inputs; give one weight for each")
    for weight in weights:
        if not math.isfinite(weight):
            raise InputError(f"merge: weight {weight} is not a finite number")


def _verify_factors(factors: Sequence[tuple[Tensor, Tensor]]) -> None:
    for a, b in factors:
        if a.dim() != 2 or b.dim() != 2 or b.shape[1] != a.shape[0]:
            raise InputError(
                f"factors A {tuple(a.shape)} and B {tuple(b.shape)} do not fit; A is [rank, inputs], B [outputs, rank]"
            )


def _precision(tensors: Sequence[Tensor]) -> torch.dtype:
    """The type in which a sum is computed."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
