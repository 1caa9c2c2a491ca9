"""Additions in GSM8K's format, made from the seed: a task that a very small model learns on a CPU.

Half of the answers have a slip, each time another one, so that a model trained on them knows the right sum and still
writes it only half of the time: there is room for training on a reward that verifies the result.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from rayalign.data.files import Row
from rayalign.errors import InputError

LARGEST = 24
"""largest operand"""
SLIP_RATE = 0.5
SLIPS = (-10, -2, -1, 1, 2, 10)
"""what a slip adds to the sum"""
TEST_SHARE = 0.1
ROWS = 24_000
"""rows of a corpus or of demonstrations that names no limit"""
_Pair = tuple[int, int]


def rows(seed: int, split: str, *, distinct: bool) -> Iterator[Row]:
    """Rows with `question` and `answer`.

    Args:
        split: train, test (a tenth of all pairs of operands, which train does not have) or corpus (as train).
        distinct: each pair once, with its right sum; else pairs drawn again and again, half of their sums wrong.

    Raises:
        InputError: no such split.
    """
    pairs = _pairs(split)
    rng = random.Random(f"{seed} {split}")
    if distinct:
        rng.shuffle(pairs)
        yield from (_row(a, b, a + b) for a, b in pairs)
        return
    for _ in range(ROWS):
        a, b = rng.choice(pairs)
        slip = rng.choice(SLIPS) if rng.random() < SLIP_RATE else 0
        yield _row(a, b, a + b + slip)


def _row(a: int, b: int, result: int) -> Row:
    return {"question": f"What is {a} + {b}?", "answer": f"{a} + {b} = {result}\n#### {result}"}


def _pairs(split: str) -> list[_Pair]:
    if split not in ("train", "test", "corpus"):
        raise InputError(f"data arithmetic has no split {split!r}; it has train and test")
    pairs: list[_Pair] = []
    for a in range(LARGEST + 1):
        pairs += [(a, b) for b in range(LARGEST + 1)]
    random.Random(0).shuffle(pairs)  # the same pairs are unseen whatever the seed
    tests = round(TEST_SHARE * len(pairs))
    return pairs[:tests] if split == "test" else pairs[tests:]
