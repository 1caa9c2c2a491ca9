"""What ranks share: a value that only the first one reads, and rows of which each has some."""

from __future__ import annotations

from pathlib import Path

import torch

from rayalign.models.process_group import from_first, join_rows, meet
from tests.models.conftest import run_two_ranks


def test_two_ranks_share_what_the_first_reads_and_the_rows_that_each_has(tmp_path: Path) -> None:
    run_two_ranks("tests.models.group_ranks", "", tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [rank["first"] for rank in ranks] == ["of rank 0", "of rank 0"]
    assert [rank["read"] for rank in ranks] == [[0], []]
    for rank in ranks:
        assert rank["rows"].tolist() == [[1.0, 2.0], [11.0, 12.0], [0.0, 0.0], [31.0, 32.0]]
    assert ranks[0]["waited"] < 60.0, "DeepSpeed's own group keeps torch's deadline of half an hour"


def test_a_rank_alone_shares_with_itself() -> None:
    device = meet()
    assert from_first(lambda: 7) == 7
    joined_B = join_rows(torch.tensor([5.0, 6.0]), torch.tensor([2, 0]), 3, device)
    assert joined_B.tolist() == [6.0, 0.0, 5.0]
