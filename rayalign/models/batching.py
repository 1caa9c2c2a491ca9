"""Which rows go where: ranks, minibatches and micro-batches. Pure, and never through the middle of a unit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rayalign.types import Batch


def shard(batch: Batch, rank: int, world: int) -> Batch:
    """The rank's rows: whole units, longest first to the rank with the fewest tokens so far; may be empty."""
    if world == 1:
        return batch
    tokens_B = batch["attention_mask_BT"].sum(dim=1)
    units = unit_rows(batch)
    costs = [int(tokens_B[rows].sum()) for rows in units]
    loads = [0] * world
    mine: list[int] = []
    for unit in sorted(range(len(units)), key=lambda u: -costs[u]):
        target = loads.index(min(loads))
        loads[target] += costs[unit]
        if target == rank:
            mine.append(unit)
    return batch.rows(_joined([units[u] for u in sorted(mine)]))


def minibatches(batch: Batch, samples: int, generator: torch.Generator, *, window: int = 1) -> list[Tensor]:
    """One pass: shuffled units in minibatches of at most `samples` rows, as row numbers; each comes exactly once.

    With a window of several rows, rows are sorted by length within each such number of them, which saves padding where
    a minibatch is small, and the minibatches are shuffled once more.
    """
    units = unit_rows(batch)
    order = torch.randperm(len(units), generator=generator)
    if window > 1:
        lengths_B = batch["attention_mask_BT"].sum(dim=1)
        longest = torch.stack([lengths_B[rows].max() for rows in units])
        parts = order.split(max(1, window * len(units) // len(batch)))
        order = torch.cat([part[longest[part].argsort(stable=True)] for part in parts])
    cut = list(_cut([units[unit] for unit in order.tolist()], samples))
    if window > 1:
        cut = [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
    return cut


def _cut(units: list[Tensor], samples: int) -> Iterator[Tensor]:
    """Units in their order, joined to at most `samples` rows; a larger unit goes alone."""
    taken: list[Tensor] = []
    count = 0
    for rows in units:
        if taken and count + len(rows) > samples:
            yield _joined(taken)
            taken, count = [], 0
        taken.append(rows)
        count += len(rows)
    if taken:
        yield _joined(taken)


def micro_batches(batch: Batch, token_budget: int) -> list[Batch]:
    """The batch in trimmed pieces of at most `token_budget` padded tokens; see `micro_rows`."""
    return [trim(batch.rows(rows_N)) for rows_N in micro_rows(batch, token_budget)]


def micro_rows(batch: Batch, token_budget: int) -> list[Tensor]:
    """Row numbers of each micro-batch, longest units first; a unit over the budget goes alone."""
    lengths_B = batch["attention_mask_BT"].sum(dim=1)
    units = unit_rows(batch)
    longest = [int(lengths_B[rows].max()) for rows in units]
    micros: list[list[Tensor]] = []
    count = width = 0
    for unit in sorted(range(len(units)), key=lambda u: -longest[u]):
        rows = units[unit]
        if not micros or (count + len(rows)) * width > token_budget:
            micros.append([])
            count, width = 0, longest[unit]
        micros[-1].append(rows)
        count += len(rows)
    return [_joined(rows) for rows in micros]


def trim(batch: Batch) -> Batch:
    """The batch without the columns that are padding in every row."""
    used = batch["attention_mask_BT"].any(dim=0).nonzero().flatten()
    columns = slice(int(used[0]), int(used[-1]) + 1)
    tensors = {name: x[:, columns] if name.endswith("_BT") else x for name, x in batch.tensors.items()}
    return Batch(tensors, batch.unit_B)


def unit_rows(batch: Batch) -> list[Tensor]:
    """The row numbers of each unit."""
    _, unit_of_B, sizes = torch.unique(batch.unit_B, return_inverse=True, return_counts=True)
    return list(torch.argsort(unit_of_B, stable=True).split(sizes.tolist()))


def _joined(rows: list[Tensor]) -> Tensor:
    return torch.cat(rows) if rows else torch.empty(0, dtype=torch.long)
