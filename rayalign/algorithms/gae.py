"""Generalised advantages; their sums over time are a few large matrix products, not one small step for each token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32
"""tokens of one product: the fastest of 16 to 256 on a CPU, and three levels of them cover 32,768 tokens"""


def gae(
    rewards_BT: Tensor,
    values_BT: Tensor,
    mask_BT: Tensor,
    *,
    gamma: float,
    lam: float,
    bootstrap_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantages (Schulman 2016, eq. 16) and returns = advantages + values.

    Valid tokens are neighbours of each other whatever stands between them. The value after the last one is 0, or
    `bootstrap_B`. At least float32.
    """
    dtype = torch.promote_types(torch.promote_types(rewards_BT.dtype, values_BT.dtype), torch.float32)
    mask_BT = mask_BT.bool()
    rewards_BT, values_BT = _zeroed(rewards_BT.to(dtype), mask_BT), _zeroed(values_BT.to(dtype), mask_BT)
    if bootstrap_B is not None:
        rewards_BT = _with_bootstrap(rewards_BT, mask_BT, gamma * bootstrap_B.to(dtype))
    if _has_gaps(mask_BT):
        place_BT, width = _places(mask_BT)
        packed_BT = _gapless_gae(_packed(rewards_BT, place_BT, width), _packed(values_BT, place_BT, width), gamma, lam)
        advantages_BT = packed_BT.gather(1, place_BT)
    else:
        advantages_BT = _gapless_gae(rewards_BT, values_BT, gamma, lam)
    advantages_BT = advantages_BT.masked_fill_(~mask_BT, 0)
    return advantages_BT, advantages_BT + values_BT


def _with_bootstrap(rewards_BT: Tensor, mask_BT: Tensor, bootstrap_B: Tensor) -> Tensor:
    """The discounted value after the last valid token counts as a part of that token's reward."""
    last_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).byte().argmax(1)
    bootstrap_B = torch.where(mask_BT.any(1), bootstrap_B, 0)
    return rewards_BT.scatter_add(1, last_B[:, None], bootstrap_B[:, None])


def _has_gaps(mask_BT: Tensor) -> bool:
    """Whether the valid tokens of any row are more than one run."""
    inner_ends_B = (mask_BT[:, :-1] > mask_BT[:, 1:]).sum(1)
    ends_B = inner_ends_B + mask_BT[:, -1:].sum(1)
    return bool((ends_B > 1).any())


def _places(mask_BT: Tensor) -> tuple[Tensor, int]:
    """Each token's column among the valid ones of its row, and the width; the last column is for all that is not."""
    width = (mask_BT.shape[1] // BLOCK + 1) * BLOCK
    return (mask_BT.cumsum(1) - 1).masked_fill_(~mask_BT, width - 1), width


def _packed(x_BT: Tensor, place_BT: Tensor, width: int) -> Tensor:
    return x_BT.new_zeros(len(x_BT), width).scatter(1, place_BT, x_BT)


def _gapless_gae(rewards_BT: Tensor, values_BT: Tensor, gamma: float, lam: float) -> Tensor:
    """Advantages where the valid tokens of each row are one run, and 0 after it; what is before it is undefined."""
    deltas_BT = rewards_BT - values_BT
    deltas_BT[:, :-1].add_(values_BT[:, 1:], alpha=gamma)
    return _discounted_sum_(deltas_BT, gamma * lam)


def _zeroed(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return x_BT.masked_fill(~mask_BT, 0)


def _discounted_sum_(x_BT: Tensor, factor: float) -> Tensor:
    """`y[t] = x[t] + factor * y[t + 1]` for a factor in [0, 1]; `x_BT` may be overwritten.

    Within a block it is one product with the triangular matrix `factor ** (s - t)`. The sums at the starts of all
    blocks obey the same rule with `factor ** BLOCK`, so each level has a constant number of kernels and there are
    log T / log BLOCK levels. No exponent is negative: nothing overflows, and what underflows is below rounding.
    """
    size = x_BT.shape[1]
    if size <= BLOCK:
        return x_BT @ _triangle(factor, size, x_BT)
    triangle_SS = _triangle(factor, BLOCK, x_BT)
    if size % BLOCK:
        x_BT = pad(x_BT, (0, -size % BLOCK))
    blocks_BNS = x_BT.view(len(x_BT), -1, BLOCK)
    starts_BN = _discounted_sum_(blocks_BNS @ triangle_SS[:, 0], factor**BLOCK)
    blocks_BNS[:, :-1, -1] += factor * starts_BN[:, 1:]
    return (blocks_BNS @ triangle_SS).view(len(x_BT), -1)[:, :size]


def _triangle(factor: float, size: int, like: Tensor) -> Tensor:
    """[s, t]: the weight of x[s] in y[t]. Powers are taken in float64; subnormal ones, which are slow, become 0."""
    place_S = torch.arange(size, dtype=torch.float64, device=like.device)
    powers_SS = factor ** (place_S[:, None] - place_S).clamp(min=0)
    powers_SS = powers_SS.masked_fill(powers_SS < torch.finfo(like.dtype).tiny, 0)
    return powers_SS.tril().to(like.dtype)
