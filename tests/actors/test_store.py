from __future__ import annotations

import pytest
import torch

from rayalign.actors.store import rank_rows
from rayalign.types import Rollouts


@pytest.mark.parametrize(("rows", "world"), [(6, 1), (6, 3), (7, 3), (2, 3)])
def test_the_shares_put_together_are_the_batch_in_its_order(rows: int, world: int) -> None:
    ids_BT = torch.arange(rows * 4).reshape(rows, 4)
    ones_BT = torch.ones_like(ids_BT)
    rollouts = Rollouts(ids_BT, ones_BT, ones_BT * 2, torch.zeros(rows, dtype=torch.long))
    shares = [rank_rows(rollouts, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat([share["input_ids_BT"] for share in shares]), ids_BT)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share["policy_mask_BT"].eq(2).all() for share in shares)
    assert [row for share in shares for row in share.unit_B.tolist()] == list(range(rows))  # no row shares a unit
