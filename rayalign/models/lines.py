"""Lays rows out so that a model reads a shared prompt once, and little padding. Pure.

A *block* is a prompt, then what follows it in each of its rows, one after another. A *line* is what the model reads:
one block, or several end to end. A mask lets each row see its own prompt and itself, and positions go on from the
prompt's end: hidden states are those of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

WORTHWHILE = 0.9
"""share of the work that a longer block may cost at most: to lay it out takes time too"""
NOBODY, EVERY_ROW = -2, -1
"""owners of padding, and of a block's prompt"""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one prompt, read together; a row by itself is a block whose prompt is the whole row."""

    rows: tuple[int, ...]
    prompt: int
    """tokens that the rows share"""
    length: int
    """tokens of the prompt and of all that follows it"""


@dataclass(frozen=True, slots=True)
class Line:
    """Blocks end to end."""

    blocks: tuple[Block, ...]

    @property
    def length(self) -> int:
        """Tokens of all blocks."""
        return sum(block.length for block in self.blocks)

    @property
    def is_plain(self) -> bool:
        """Whether it is one row by itself, which needs no mask."""
        return len(self.blocks) == 1 and len(self.blocks[0].rows) == 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Lines of one reading, padded on the right. L lines, S positions, B rows, T tokens of the longest row."""

    input_ids_LS: Tensor
    positions_LS: Tensor
    mask_L1SS: Tensor
    """True where a position sees another one"""
    place_BT: Tensor
    """where each token of a row stands among the lines' positions, counted through; 0 behind a row's end"""


def prompts_of(select_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
    """Tokens of each row before the first one that is read; rows of which none is read have no prompt."""
    selected_BT = select_BT.bool() & attention_mask_BT.bool()
    return selected_BT.int().argmax(dim=1)


def plan_blocks(input_ids_BT: Tensor, lengths_B: Tensor, prompts_B: Tensor, hidden: int) -> list[Block]:
    """All rows in blocks, the cheapest way by `cost`.

    Args:
        prompts_B: tokens before the first one that is read of each row; rows are joined where these are equal.
        hidden: width of the model, against which attention is weighed.
    """
    lengths: list[int] = lengths_B.tolist()
    by_prompt: dict[bytes, list[int]] = {}
    prompts: list[int] = prompts_B.tolist()
    ids_BT = input_ids_BT.cpu().numpy()
    for row, prompt in enumerate(prompts):
        by_prompt.setdefault(ids_BT[row, :prompt].tobytes(), []).append(row)
    blocks: list[Block] = []
    for rows in by_prompt.values():
        prompt = prompts[rows[0]]
        most = _rows_of_a_block([lengths[row] for row in rows], prompt, hidden)
        for start in range(0, len(rows), most):
            blocks.append(_block(rows[start : start + most], prompt, lengths))
    return blocks


def cost(line_length: int, hidden: int, *, causal: bool) -> float:
    """Work of reading a line, in products of its width: matrix products by token, attention by pairs of tokens.

    A causal line costs half of its pairs, since the kernels leave out the other half; under a mask all are computed.
    """
    pairs = line_length * line_length
    return 6.0 * hidden * line_length + (pairs / 2 if causal else pairs)


def rows_of(lines: Iterable[Line]) -> list[int]:
    """The rows of lines, one line after the other."""
    blocks = chain.from_iterable(line.blocks for line in lines)
    return list(chain.from_iterable(block.rows for block in blocks))


def lay_out(lines: Sequence[Line], input_ids_BT: Tensor, lengths_B: Tensor) -> Layout:
    """The lines of one reading; `place_BT` has their rows in the order of the lines."""
    device = input_ids_BT.device
    rows_B = torch.tensor(rows_of(lines), device=device)
    width = int(lengths_B[rows_B].max())
    span = max(line.length for line in lines)
    size = len(lines) * span
    prompts_B1, starts_B1, shifts_B1, blocks_B1 = _seats(lines, lengths_B.tolist(), span).to(device).T[:, :, None]
    column_T = torch.arange(width, device=device)
    behind_BT = column_T >= prompts_B1
    real_BT = column_T < lengths_B[rows_B][:, None]
    place_BT = (starts_B1 + column_T + behind_BT * shifts_B1).where(real_BT, 0)
    places_M = place_BT[real_BT]
    input_ids_N = input_ids_BT.new_zeros(size)
    positions_N = torch.zeros(size, dtype=torch.long, device=device)
    blocks_N = torch.full((size,), NOBODY, device=device)
    owners_N = torch.full((size,), NOBODY, device=device)
    input_ids_N[places_M] = input_ids_BT[rows_B, :width][real_BT]
    positions_N[places_M] = column_T.expand_as(place_BT)[real_BT]
    blocks_N[places_M] = blocks_B1.expand_as(place_BT)[real_BT]
    owners_N[places_M] = torch.where(behind_BT, rows_B[:, None], EVERY_ROW)[real_BT]
    mask_L1SS = _mask(blocks_N.view(-1, span), owners_N.view(-1, span))
    return Layout(input_ids_N.view(-1, span), positions_N.view(-1, span), mask_L1SS, place_BT)


def _seats(lines: Sequence[Line], lengths: Sequence[int], span: int) -> Tensor:
    """For each row: tokens of its prompt, where its block starts, how far its answer is moved, the block's number."""
    seats: list[tuple[int, int, int, int]] = []
    number = 0
    for place, line in enumerate(lines):
        start = place * span
        for block in line.blocks:
            shift = 0
            for row in block.rows:
                seats.append((block.prompt, start, shift, number))
                shift += lengths[row] - block.prompt
            start += block.length
            number += 1
    return torch.tensor(seats)


def _mask(blocks_LS: Tensor, owners_LS: Tensor) -> Tensor:
    """What each position sees: of its own block the prompt and its own row so far; padding sees padding alone."""
    span = owners_LS.shape[1]
    same_block_LSS = blocks_LS[:, :, None] == blocks_LS[:, None, :]
    same_row_LSS = owners_LS[:, :, None] == owners_LS[:, None, :]
    prompt_L1S = (owners_LS == EVERY_ROW)[:, None, :]
    earlier_SS = torch.ones(span, span, dtype=torch.bool, device=owners_LS.device).tril()
    return (same_block_LSS & (same_row_LSS | prompt_L1S) & earlier_SS)[:, None]


def _rows_of_a_block(lengths: Sequence[int], prompt: int, hidden: int) -> int:
    """How many of the rows of one prompt make a block: 1, 2, 4, ... or all of them, whichever costs least."""
    sizes = {2**power for power in range(1, len(lengths).bit_length())} | {len(lengths)}
    costs = {size: _cost_of_blocks(lengths, prompt, hidden, size) for size in sorted(sizes)}
    best = min(costs, key=lambda size: costs[size])
    return best if costs[best] < WORTHWHILE * _cost_of_blocks(lengths, prompt, hidden, 1) else 1


def _cost_of_blocks(lengths: Sequence[int], prompt: int, hidden: int, size: int) -> float:
    """The cost of reading rows of one prompt in blocks of so many rows."""
    total = 0.0
    for start in range(0, len(lengths), size):
        part = lengths[start : start + size]
        line_length = sum(part) - prompt * (len(part) - 1)
        total += cost(line_length, hidden, causal=len(part) == 1)
    return total


def _block(rows: Sequence[int], prompt: int, lengths: Sequence[int]) -> Block:
    if len(rows) == 1:
        return Block((rows[0],), lengths[rows[0]], lengths[rows[0]])
    return Block(tuple(rows), prompt, prompt + sum(lengths[row] - prompt for row in rows))
