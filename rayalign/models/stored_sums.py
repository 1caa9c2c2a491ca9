"""Weighted sums of tensors in files, piece by piece; some pieces are read and added up while another is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from rayalign.models.weighted_sums import merge_tensors
from rayalign.weights.streaming import PIECE

READERS = 2
"""threads, and pieces of the sum that wait to be written"""


class Numbers(Protocol):
    """A tensor that is read in pieces, such as a `StoredTensor`."""

    @property
    def count(self) -> int:
        """How many numbers it has."""

    def piece(self, begin: int, count: int) -> Tensor:
        """At most `count` of its numbers from number `begin` on, flat."""


def summed_pieces(
    sources: Iterable[Sequence[Numbers]], weights: Sequence[float], dtype: torch.dtype | None = None
) -> Iterator[Tensor]:
    """The weighted sum of each row of sources in flat pieces, one sum after the other.

    Args:
        sources: tensors of one shape in each row.
        weights: one for each tensor of a row.
        dtype: of the sums; None: that of the first tensor of each row.
    """

    def piece(row: Sequence[Numbers], begin: int) -> Tensor:
        numbers = [tensor.piece(begin, PIECE) for tensor in row]
        return merge_tensors(numbers if dtype is None else [tensor.to(dtype) for tensor in numbers], weights)

    with ThreadPoolExecutor(READERS, thread_name_prefix="merge") as readers:
        ahead: deque[Future[Tensor]] = deque()
        for row in sources:
            for begin in range(0, row[0].count, PIECE):
                ahead.append(readers.submit(piece, row, begin))
                if len(ahead) > READERS:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
