from __future__ import annotations

import torch
from torch import Tensor

from rayalign.models.batching import (
    length_buckets,
    micro_batches,
    micro_rows,
    minibatches,
    shard,
    trim,
    unit_rows,
)
from rayalign.types import Batch


def batch_of(lengths: list[int], units: list[int], prompts: list[list[int]] | None = None) -> Batch:
    """Rows that are trained on behind their prompts; without prompts each row has one of its own."""
    mask_BT = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    rows_B = torch.arange(len(lengths))
    ids_BT = (100 + rows_B)[:, None].expand_as(mask_BT).clone()
    trained_BT = mask_BT.clone()
    trained_BT[:, 0] = 0
    for row, prompt in enumerate(prompts or []):
        ids_BT[row, : len(prompt)] = torch.tensor(prompt)
        trained_BT[row, : len(prompt)] = 0
    tensors = {"attention_mask_BT": mask_BT, "policy_mask_BT": trained_BT, "input_ids_BT": ids_BT, "row_B": rows_B}
    return Batch(tensors, torch.tensor(units))


def rows_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Lengths and units."""
    return batch["attention_mask_BT"].sum(1), batch.unit_B


def numbers(tensors: list[Tensor]) -> list[list[int]]:
    return [x.tolist() for x in tensors]


def test_unit_rows_finds_rows_that_are_no_neighbours() -> None:
    assert numbers(unit_rows(batch_of([1, 1, 1, 1], [7, 3, 7, 3]))) == [[1, 3], [0, 2]]


def test_shard_balances_tokens_and_keeps_units() -> None:
    batch = batch_of([9, 2, 3, 3, 5], [0, 1, 1, 2, 3])
    # units cost 9, 5, 3, 5: the 9 goes to rank 0, both 5s to rank 1, then the 3 to rank 0
    assert [shard(batch, rank, 2)["row_B"].tolist() for rank in (0, 1)] == [[0, 3], [1, 2, 4]]


def rows_of_ranks(batch: Batch, world: int, **settings: bool) -> list[list[int]]:
    return [shard(batch, rank, world, **settings)["row_B"].tolist() for rank in range(world)]


def test_shard_keeps_the_rows_of_a_prompt_on_one_rank_and_counts_it_once() -> None:
    prompts = [[1, 2, 3], [4], [1, 2, 3], [5], [1, 2, 3], *[[6 + i] for i in range(11)]]
    batch = batch_of([4, 9, 4, 9, 4, *[9] * 11], list(range(16)), prompts)
    # A bundle has at most 129 / 16 tokens: all three rows of 4 are one, of 3 + 3 * 1 tokens. It comes after thirteen
    # rows of 9, of which rank 0 has seven.
    assert rows_of_ranks(batch, 2) == [[1, 5, 7, 9, 11, 13, 15], [0, 2, 3, 4, 6, 8, 10, 12, 14]]


def test_shard_leaves_rows_apart_that_share_a_first_token_alone() -> None:
    batch = batch_of([20] * 32, list(range(32)), [[1]] * 32)
    assert rows_of_ranks(batch, 2) == [list(range(0, 32, 2)), list(range(1, 32, 2))]


def test_shard_spreads_a_prompt_that_all_rows_have() -> None:
    batch = batch_of([4] * 64, list(range(64)), [[1, 2, 3]] * 64)
    # A bundle has at most 4 * 64 / 16 tokens, 3 + 13 * 1: four bundles of 13 rows, and one of 12, of 15 tokens. The
    # third one follows the first one, and the last one both.
    first, second = rows_of_ranks(batch, 2)
    assert first == [*range(13), *range(26, 39), *range(52, 64)]
    assert second == [*range(13, 26), *range(39, 52)]


def test_shard_counts_every_prompt_where_the_model_reads_them_all() -> None:
    shared, others = [list(range(1, 9))] * 16, [[20 + i] for i in range(16)]
    batch = batch_of([10] * 32, list(range(32)), shared + others)
    assert rows_of_ranks(batch, 2)[0][:6] == list(range(6))  # a bundle of 10 + 5 * 2 tokens
    assert rows_of_ranks(batch, 2, shares_prompts=False) == [list(range(0, 32, 2)), list(range(1, 32, 2))]


def test_shard_may_leave_a_rank_without_rows() -> None:
    batch = batch_of([3, 4], [0, 0])
    assert [len(shard(batch, rank, 3)) for rank in range(3)] == [2, 0, 0]


def test_minibatches_hold_each_row_once_and_whole_units() -> None:
    batch = batch_of([1] * 10, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    parts = numbers(minibatches(*rows_of(batch), 4, torch.Generator().manual_seed(0)))
    assert [len(p) for p in parts] == [4, 4, 2]
    assert sorted(sum(parts, [])) == list(range(10))
    assert all(p[i] // 2 == p[i + 1] // 2 for p in parts for i in range(0, len(p), 2))


def test_minibatches_are_shuffled_anew_and_repeat_with_the_seed() -> None:
    batch = batch_of([1] * 20, list(range(20)))
    generator = torch.Generator().manual_seed(1)
    first, second = (numbers(minibatches(*rows_of(batch), 5, generator)) for _ in range(2))
    again = numbers(minibatches(*rows_of(batch), 5, torch.Generator().manual_seed(1)))
    assert first != second
    assert first == again


def test_a_window_puts_rows_of_like_length_together_in_shuffled_minibatches() -> None:
    lengths = [5, 1, 4, 2, 3, 6, 8, 7]
    batch = batch_of(lengths, list(range(8)))
    parts = minibatches(*rows_of(batch), 2, torch.Generator().manual_seed(0), window=8)
    found = [sorted(lengths[row] for row in part) for part in numbers(parts)]
    assert sorted(found) == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert found != sorted(found)


def test_a_unit_larger_than_a_minibatch_goes_alone() -> None:
    batch = batch_of([1] * 5, [0, 0, 0, 0, 1])
    sizes = sorted(len(m) for m in minibatches(*rows_of(batch), 2, torch.Generator()))
    assert sizes == [1, 4]


def test_micro_rows_sort_by_length_within_the_budget() -> None:
    assert numbers(micro_rows(batch_of([2, 8, 3, 7, 1], [0, 1, 2, 3, 4]), 16)) == [[1, 3], [2, 0, 4]]


def test_a_unit_over_the_budget_goes_alone() -> None:
    assert numbers(micro_rows(batch_of([8, 8, 2, 2], [0, 0, 1, 2]), 4)) == [[0, 1], [2, 3]]


def test_micro_batches_lose_padding_columns_only() -> None:
    widths = [m["attention_mask_BT"].shape for m in micro_batches(batch_of([8, 3, 2], [0, 1, 2]), 8)]
    assert widths == [(1, 8), (2, 3)]


def test_trim_cuts_both_sides() -> None:
    mask_BT = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    cut = trim(Batch({"attention_mask_BT": mask_BT, "scores_B": torch.ones(2)}, torch.arange(2)))
    assert cut["attention_mask_BT"].tolist() == [[0, 1, 1], [1, 1, 0]]
    assert cut["scores_B"].shape == (2,)


def test_micro_rows_of_nothing() -> None:
    batch = batch_of([2], [0])
    assert micro_rows(batch.rows(torch.empty(0, dtype=torch.long)), 8) == []


def test_buckets_hold_rows_of_like_length() -> None:
    lengths = [20, 40, 39, 20, 10]
    # 40 and 39 lose one position of 80; a row of 20 beside them would lose 21 of 120
    assert length_buckets(lengths, 1) == [[1, 2], [0, 3], [4]]


def test_a_bucket_has_at_least_so_many_tokens_before_it_ends() -> None:
    lengths = [40, 20, 10, 10]
    assert length_buckets(lengths, 41) == [[0, 1], [2, 3]]
    assert length_buckets(lengths, 1000) == [[0, 1, 2, 3]]


def test_buckets_of_many_rows_have_at_most_a_twentieth_of_padding() -> None:
    lengths = torch.randint(18, 80, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    buckets = length_buckets(lengths, 64)
    assert sorted(place for bucket in buckets for place in bucket) == list(range(256))
    read = sum(len(bucket) * max(lengths[place] for place in bucket) for bucket in buckets)
    assert 1 - sum(lengths) / read <= 0.05
