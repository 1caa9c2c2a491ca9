"""Weighted sums of tensors in files, piece by piece; some pieces are read and added up while another is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from rayalign.models.weighted_sums import merge_tensors
from rayalign.weights.streaming import PIECE, StoredTensor

READERS = 2
"""threads, and pieces of the sum that wait to be written"""


def summed_pieces(
    sources: Iterable[Sequence[StoredTensor]], weights: Sequence[float], dtype: torch.dtype | None = None
) -> Iterator[Tensor]:
    """The weighted sum of each row of sources in flat pieces, one sum after the other.

    Args:
        sources: tensors of one shape in each row.
        weights: one for each tensor of a row.
        dtype: of the sums; None: that of the first tensor of each row.
    """

    def piece(row: Sequence[StoredTensor], begin: int) -> Tensor:
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
