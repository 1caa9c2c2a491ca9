"""Which rows go where: ranks, minibatches and micro-batches. Pure, and never through the middle of a unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayalign.config import LearnerConfig
from rayalign.models.lines import prompts_of
from rayalign.types import Batch

PADDING = 0.05
"""largest share of a bucket that is padding"""
BUNDLES_OF_A_RANK = 8
"""so many bundles of units with one prompt make up a rank's share at least, so that shares are about equal"""
LEAST_PROMPT = 0.1
"""share of a unit's tokens that its prompt has at least where the unit joins others with that prompt"""


def shard(batch: Batch, rank: int, world: int, *, shares_prompts: bool = True) -> Batch:
    """The rank's rows: whole units, most tokens first to the rank with the fewest so far; may be empty.

    Args:
        shares_prompts: whether a prompt that several rows have is read once. Units of one prompt then go to the same
            rank, unless they are too large a part of all.
    """
    if world == 1:
        return batch
    rows = unit_rows(batch)
    bundles = _bundles(batch, rows, 1 / (world * BUNDLES_OF_A_RANK)) if shares_prompts else _single_units(batch, rows)
    loads = [0] * world
    mine: list[int] = []
    for bundle in sorted(bundles, key=lambda bundle: -bundle.tokens):
        target = loads.index(min(loads))
        loads[target] += bundle.tokens
        if target == rank:
            mine += bundle.units
    return batch.rows(_joined([rows[unit] for unit in sorted(mine)]))


@dataclass(slots=True)
class _Bundle:
    """Units that go to one rank together."""

    tokens: int
    units: list[int]


def _single_units(batch: Batch, rows: Sequence[Tensor]) -> list[_Bundle]:
    """Each unit by itself."""
    lengths_B = batch["attention_mask_BT"].sum(dim=1)
    return [_Bundle(int(lengths_B[own].sum()), [unit]) for unit, own in enumerate(rows)]


def _bundles(batch: Batch, rows: Sequence[Tensor], share: float) -> list[_Bundle]:
    """Units of one prompt together; each but the first adds its other tokens only. A short prompt joins none.

    Args:
        rows: of each unit.
        share: of all tokens that a bundle of several units has at most.
    """
    prompts_B = prompts_of(batch["policy_mask_BT"], batch["attention_mask_BT"]).tolist()
    ids_BT = batch["input_ids_BT"].cpu().numpy()
    units = _single_units(batch, rows)
    most = share * sum(unit.tokens for unit in units)
    bundles: list[_Bundle] = []
    latest: dict[bytes, _Bundle] = {}  # by prompt
    for unit, own in zip(units, rows, strict=True):
        first = int(own[0])
        prompt_tokens = prompts_B[first]
        prompt = ids_BT[first, :prompt_tokens].tobytes()
        bundle = latest.get(prompt)
        is_long = prompt_tokens >= LEAST_PROMPT * unit.tokens
        added = unit.tokens - prompt_tokens
        if bundle is not None and is_long and bundle.tokens + added <= most:
            bundle.tokens += added
            bundle.units += unit.units
        else:
            latest[prompt] = unit
            bundles.append(unit)
    return bundles


def minibatches(
    lengths_B: Tensor, unit_B: Tensor, samples: int, generator: torch.Generator, *, window: int = 1
) -> list[Tensor]:
    """One pass: shuffled units in minibatches of at most `samples` rows, as row numbers; each comes exactly once.

    With a window of several rows, rows are sorted by length within each such number of them, which saves padding where
    a minibatch is small, and the minibatches are shuffled once more.
    """
    _, unit_of_B, sizes_U = torch.unique(unit_B, return_inverse=True, return_counts=True)
    order_U = torch.randperm(len(sizes_U), generator=generator)
    if window > 1:
        longest_U = torch.zeros_like(sizes_U).scatter_reduce(0, unit_of_B, lengths_B, "amax")
        parts = order_U.split(max(1, window * len(sizes_U) // len(unit_B)))
        order_U = torch.cat([part[longest_U[part].argsort(stable=True)] for part in parts])
    place_U = torch.empty_like(order_U)
    place_U[order_U] = torch.arange(len(order_U))
    rows_B = torch.argsort(place_U[unit_of_B], stable=True)
    cut = list(rows_B.split(_counts(sizes_U[order_U].tolist(), samples)))
    if window > 1:
        cut = [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
    return cut


def pieces(unit_B: Tensor, samples: int) -> list[Tensor]:
    """All rows in their order, in pieces of whole units, at most `samples` rows; rows of a unit are neighbours."""
    _, sizes = torch.unique_consecutive(unit_B, return_counts=True)
    return list(torch.arange(len(unit_B)).split(_counts(sizes.tolist(), samples)))


def _counts(sizes: list[int], samples: int) -> list[int]:
    """Rows of each minibatch: units of these sizes in their order, at most `samples` rows; a larger unit goes alone."""
    counts: list[int] = []
    count = 0
    for size in sizes:
        if count and count + size > samples:
            counts.append(count)
            count = 0
        count += size
    return [*counts, count] if count else counts


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


def length_buckets(lengths: Sequence[int], least_tokens: int) -> list[list[int]]:
    """Places of buckets whose rows are of like length, the longest first; a bucket is as wide as its longest row.

    At most `PADDING` of a bucket is padding, unless that would leave it with fewer than `least_tokens`.
    """
    buckets: list[list[int]] = []
    width = tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        positions = (len(buckets[-1]) + 1) * width if buckets else 0
        full = positions - width >= least_tokens
        if not buckets or (full and tokens + length < (1 - PADDING) * positions):
            buckets.append([])
            width, tokens = length, 0
        buckets[-1].append(place)
        tokens += length
    return buckets


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


def pass_over(lengths_B: Tensor, unit_B: Tensor, config: LearnerConfig, seed: int, index: int) -> list[Tensor]:
    """The rows of each minibatch of one pass; the same for the same arguments on every rank."""
    generator = torch.Generator().manual_seed(seed * 1009 + index)
    return minibatches(lengths_B, unit_B, config.minibatch, generator, window=config.length_window)
