"""Rows of a rollout batch by rank: contiguous, so that the shares put together are the batch in its order."""

from __future__ import annotations

import torch

from rayalign.algorithms.ops import token_tensors
from rayalign.types import Batch, Rollouts


def rank_rows(rollouts: Rollouts, rank: int, world: int) -> Batch:
    """The rank's share of the rows, with what a forward pass reads."""
    rows_B = torch.arange(len(rollouts.group_B))
    return Batch(token_tensors(rollouts), rows_B).rows(rows_B.tensor_split(world)[rank])
