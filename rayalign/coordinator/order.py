"""Which prompt is drawn when: a pure function of the seed, so that a resumed run goes on with the same ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rayalign.types import Example


class PromptOrder:
    """An endless sequence over a data set, shuffled anew in each epoch."""

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
