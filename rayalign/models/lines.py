"""Rows that begin with the same prompt, laid out so that a model reads the prompt once. Pure.

A *line* is what the model reads: a prompt, then what follows it in each of its rows, one after another. A mask lets
each row see the prompt and itself, and positions go on from the prompt's end: hidden states are those of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

WORTHWHILE = 0.9
"""share of the work that a longer line may cost at most: to lay it out takes time too"""


@dataclass(frozen=True, slots=True)
class Line:
    """Rows of one prompt, read together; a row by itself is a line whose prompt is the whole row."""

    rows: tuple[int, ...]
    prompt: int
    """tokens that the rows share"""
    length: int
    """tokens of the prompt and of all that follows it"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Lines of one bucket, padded on the right. L lines, S positions, B rows, T tokens of the longest row."""

    input_ids_LS: Tensor
    positions_LS: Tensor
    mask_L1SS: Tensor
    """True where a position sees another one"""
    place_BT: Tensor
    """where each token of a row stands among the lines' positions, counted through; 0 behind a row's end"""


def plan_lines(input_ids_BT: Tensor, lengths_B: Tensor, prompts_B: Tensor, hidden: int) -> list[Line]:
    """All rows in lines, the cheapest way by `cost`.

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
    lines: list[Line] = []
    for rows in by_prompt.values():
        prompt = prompts[rows[0]]
        most = _rows_of_a_line([lengths[row] for row in rows], prompt, hidden)
        for start in range(0, len(rows), most):
            lines.append(_line(rows[start : start + most], prompt, lengths))
    return lines


def cost(line_length: int, hidden: int, *, causal: bool) -> float:
    """Work of reading a line, in products of its width: matrix products by token, attention by pairs of tokens.

    A causal line costs half of its pairs, since the kernels leave out the other half; under a mask all are computed.
    """
    pairs = line_length * line_length
    return 6.0 * hidden * line_length + (pairs / 2 if causal else pairs)


def rows_of(lines: Iterable[Line]) -> list[int]:
    """The rows of lines, one line after the other."""
    return list(chain.from_iterable(line.rows for line in lines))


def lay_out(lines: Sequence[Line], input_ids_BT: Tensor, lengths_B: Tensor) -> Layout:
    """The lines of one bucket; `place_BT` has their rows in the order of the lines."""
    device = input_ids_BT.device
    rows_B = torch.tensor(rows_of(lines), device=device)
    width = int(lengths_B[rows_B].max())
    span = max(line.length for line in lines)
    prompts, shifts, owners = [], [], []
    for number, line in enumerate(lines):
        start = line.prompt
        for owner, row in enumerate(line.rows, start=1):
            prompts.append(line.prompt)
            shifts.append((number * span, start - line.prompt))
            owners.append(owner)
            start += int(lengths_B[row]) - line.prompt
    prompts_B1 = torch.tensor(prompts, device=device)[:, None]
    shifts_B2 = torch.tensor(shifts, device=device)
    column_T = torch.arange(width, device=device)
    behind_BT = column_T >= prompts_B1
    real_BT = column_T < lengths_B[rows_B][:, None]
    place_BT = shifts_B2[:, :1] + column_T + behind_BT * shifts_B2[:, 1:]
    place_BT = place_BT.where(real_BT, 0)
    size = len(lines) * span
    input_ids_N = input_ids_BT.new_zeros(size)
    positions_N = torch.zeros(size, dtype=torch.long, device=device)
    owners_N = torch.full((size,), -1, device=device)
    places_M = place_BT[real_BT]
    input_ids_N[places_M] = input_ids_BT[rows_B, :width][real_BT]
    positions_N[places_M] = column_T.expand_as(place_BT)[real_BT]
    owners_N[places_M] = (behind_BT * torch.tensor(owners, device=device)[:, None])[real_BT]
    return Layout(input_ids_N.view(-1, span), positions_N.view(-1, span), _mask(owners_N.view(-1, span)), place_BT)


def _mask(owners_LS: Tensor) -> Tensor:
    """What each position sees: the prompt (owner 0) and its own row so far; padding (owner -1) sees padding alone."""
    span = owners_LS.shape[1]
    same_LSS = owners_LS[:, :, None] == owners_LS[:, None, :]
    prompt_L1S = (owners_LS == 0)[:, None, :] & (owners_LS >= 0)[:, :, None]
    earlier_SS = torch.ones(span, span, dtype=torch.bool, device=owners_LS.device).tril()
    return ((same_LSS | prompt_L1S) & earlier_SS)[:, None]


def _rows_of_a_line(lengths: Sequence[int], prompt: int, hidden: int) -> int:
    """How many of the rows of one prompt make a line: 1, 2, 4, ... or all of them, whichever costs least."""
    sizes = {2**power for power in range(1, len(lengths).bit_length())} | {len(lengths)}
    costs = {size: _cost_of_lines(lengths, prompt, hidden, size) for size in sorted(sizes)}
    best = min(costs, key=lambda size: costs[size])
    return best if costs[best] < WORTHWHILE * _cost_of_lines(lengths, prompt, hidden, 1) else 1


def _cost_of_lines(lengths: Sequence[int], prompt: int, hidden: int, size: int) -> float:
    """The cost of reading rows of one prompt in lines of so many rows."""
    total = 0.0
    for start in range(0, len(lengths), size):
        part = lengths[start : start + size]
        line_length = sum(part) - prompt * (len(part) - 1)
        total += cost(line_length, hidden, causal=len(part) == 1)
    return total


def _line(rows: Sequence[int], prompt: int, lengths: Sequence[int]) -> Line:
    if len(rows) == 1:
        return Line((rows[0],), lengths[rows[0]], lengths[rows[0]])
    return Line(tuple(rows), prompt, prompt + sum(lengths[row] - prompt for row in rows))
