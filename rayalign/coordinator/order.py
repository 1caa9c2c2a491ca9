"""Which prompt fills which place of which iteration."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from rayalign.types import Example, Group

Rewards = tuple[float | None, ...]
"""of the candidates of one prompt"""
Weigh = Callable[[Sequence[Rewards]], Sequence[float]]
"""rewards of each prompt's candidates, none for a prompt without any -> the weight of each prompt"""


class PromptOrder:
    """An endless sequence over a data set, shuffled anew in each epoch, by the seed alone: a resumed run goes on."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __getitem__(self, position: int) -> Example:
        return self._examples[self._shuffled(position)]

    def _shuffled(self, position: int) -> int:
        """The number of the prompt at a place of the shuffled sequence."""
        epoch, offset = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._order = list(range(len(self._examples)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._order[offset]

    def observe(self, iteration: int, groups: Sequence[Group]) -> None:
        """Take note of the groups that an iteration consumes; the shuffled order does not depend on them."""


class PriorityOrder(PromptOrder):
    """Each prompt once, as shuffled; then those of most weight, without repetition within an iteration.

    An iteration is drawn by the rewards of iterations that were consumed before its own weights were published. So the
    draws follow from the seed and the rewards alone, whatever finishes first, and a resumed run goes on with them.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        seed: int,
        *,
        prompts: int,
        iterations: int,
        max_staleness: int,
        weigh: Weigh,
    ) -> None:
        """
        Args:
            prompts: of one iteration.
            max_staleness: iterations that may lie between the drawing of prompts and their use.
        """
        super().__init__(examples, seed)
        self._prompts = prompts
        self._iterations = iterations
        self._lag = max_staleness
        self._weigh = weigh
        self._rewards: dict[int, Mapping[str, Rewards]] = {}
        self._ranks: dict[int, list[int]] = {}

    def __getitem__(self, position: int) -> Example:
        if position < len(self._examples):
            return super().__getitem__(position)
        attempt, place = divmod(position, self._iterations * self._prompts)
        iteration, slot = divmod(place, self._prompts)
        ranks = self._ranked(iteration)
        place = attempt * self._prompts + slot - len(self._first_round(iteration))
        return self._examples[ranks[place % len(ranks)]]

    def observe(self, iteration: int, groups: Sequence[Group]) -> None:
        """Take note of the rewards of the groups that an iteration consumes."""
        self._rewards[iteration] = {group.prompt.id: _rewards(group) for group in groups}

    def _first_round(self, iteration: int) -> list[int]:
        """The prompts that an iteration takes as shuffled."""
        start = iteration * self._prompts
        stop = min(start + self._prompts, len(self._examples))
        return [self._shuffled(position) for position in range(start, stop)]

    def _ranked(self, iteration: int) -> list[int]:
        """The other prompts in the order in which an iteration takes them, drawn by weight (Kool 2019, Gumbel top-k).

        All prompts where an iteration takes each of them as shuffled.
        """
        if iteration not in self._ranks:
            weights = np.asarray(self._weights(iteration), dtype=np.float64)
            noise = np.random.default_rng([self._seed, iteration]).gumbel(size=len(weights))
            with np.errstate(divide="ignore"):
                keys = np.log(weights) + noise
            recent = {past: ranks for past, ranks in self._ranks.items() if past >= iteration - self._lag - 1}
            ranks = np.argsort(-keys, kind="stable").tolist()
            first_round = set(self._first_round(iteration))
            self._ranks = {**recent, iteration: [number for number in ranks if number not in first_round] or ranks}
        return self._ranks[iteration]

    def _weights(self, iteration: int) -> Sequence[float]:
        latest: dict[str, Rewards] = {}
        for past in range(iteration - self._lag):
            latest.update(self._rewards.get(past, {}))
        rewards = [latest.get(example.prompt.id, ()) for example in self._examples]
        present = any(score is not None for score in chain.from_iterable(latest.values()))
        return self._weigh(rewards) if present else [1.0] * len(rewards)


def _rewards(group: Group) -> Rewards:
    return tuple(score.value for score in group.scores)


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
    version: int = -1
    """the newest one when the prompt was submitted"""
