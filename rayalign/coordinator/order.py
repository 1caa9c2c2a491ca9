"""Which prompt fills which place of which iteration."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rayalign.types import Example


class PromptOrder:
    """An endless sequence over a data set, shuffled anew in each epoch, by the seed alone: a resumed run goes on."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __getitem__(self, position: int) -> Example:
        epoch, offset = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._order = list(range(len(self._examples)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._examples[self._order[offset]]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in an iteration, and the prompt that is to fill it."""

    iteration: int
    slot: int
    example: Example
    attempt: int = 0
    """prompts that had the place before"""
    failures: int = 0
    """of them the last ones in a row that failed"""
    rejections: int = 0
    """of them those whose groups the algorithm rejected"""
