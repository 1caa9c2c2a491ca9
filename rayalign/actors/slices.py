"""Rows of a rollout batch by rank: contiguous, so that the shares put together are the batch in its order."""

from __future__ import annotations

import torch

from rayalign.types import Batch, Rollouts


def rank_rows(rollouts: Rollouts, rank: int, world: int) -> Batch:
    """The rank's share of the rows, with what a forward pass reads."""
    rows = torch.arange(rollouts.group_B.shape[0]).tensor_split(world)[rank]
    tensors = {
        "input_ids_BT": rollouts.input_ids_BT,
        "attention_mask_BT": rollouts.attention_mask_BT,
        "policy_mask_BT": rollouts.policy_mask_BT,
    }
    return Batch(tensors, torch.arange(rollouts.group_B.shape[0])).rows(rows)
