"""Beam search, plain and diverse, over any function that returns likely next tokens; independent of engine and model.

Diverse beam search (Vijayakumar 2018, arXiv 1610.02424, algorithm 1 with Hamming diversity) divides the beams into
groups that go forward one after another. A token that earlier groups have chosen at the same step costs a later group
`penalty` for each time. One group is plain beam search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import chain

from rayalign.config import BeamConfig
from rayalign.types import FinishReason

Likely = Sequence[tuple[int, float]]
"""tokens with their log-probs, the most likely ones first"""
NextTokens = Callable[[Sequence[tuple[int, ...]], int], Sequence[Likely]]
"""so many likely next tokens of each sequence of token ids"""


@dataclass(frozen=True, slots=True)
class Beam:
    """A partial or finished answer."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    penalised: float = 0.0
    """sum of log-probs less the penalties, by which a group chooses"""
    reason: FinishReason | None = None
    """why it ended"""

    def rank(self, exponent: float) -> float:
        """What whole answers are ordered by: log-prob / length ** exponent."""
        return sum(self.logprobs) / len(self.tokens) ** exponent


class Search:
    """The search for the answers to one prompt."""

    def __init__(self, prompt: tuple[int, ...], config: BeamConfig, stop_ids: Sequence[int], limit: int) -> None:
        """`limit`: of an answer's tokens."""
        self._prompt, self._config, self._limit = prompt, config, limit
        self._stop_ids = frozenset(stop_ids)
        self._running: list[list[Beam]] = [[Beam()] for _ in range(config.groups)]
        self._ended: list[list[Beam]] = [[] for _ in range(config.groups)]

    @property
    def width(self) -> int:
        """Beams of one group."""
        return self._config.width // self._config.groups

    @property
    def candidates(self) -> int:
        """Next tokens of each beam that a step has to know: more than can be stopped or penalised away."""
        return 2 * self.width + self._config.width

    def prefixes(self) -> list[tuple[int, ...]]:
        """Sequences whose next tokens the next step needs; none when the search has ended."""
        return [self._prompt + beam.tokens for beam in chain.from_iterable(self._running)]

    def advance(self, likely: Sequence[Likely]) -> None:
        """One step of all groups; `likely` belongs to `prefixes`, in their order."""
        chosen: Counter[int] = Counter()
        rest = iter(likely)
        for number, group in enumerate(self._running):
            options: list[Beam] = []
            for beam in group:
                options += self._options(beam, next(rest), chosen)
            best = nlargest(2 * self.width, options, key=lambda beam: beam.penalised)
            self._running[number] = self._sort_out(number, best)
            chosen.update(beam.tokens[-1] for beam in best[: self.width])

    def answers(self) -> list[Beam]:
        """The answers, the best first."""
        exponent = self._config.length_exponent
        answers: list[Beam] = []
        for ended in self._ended:
            answers += nlargest(self.width, ended, key=lambda beam: beam.rank(exponent))
        return sorted(answers, key=lambda beam: beam.rank(exponent), reverse=True)

    def _options(self, beam: Beam, likely: Likely, chosen: Counter[int]) -> list[Beam]:
        options = []
        for token, logprob in likely:
            penalty = self._config.penalty * chosen[token]
            tokens, logprobs = (*beam.tokens, token), (*beam.logprobs, logprob)
            options.append(Beam(tokens, logprobs, beam.penalised + logprob - penalty))
        return options

    def _sort_out(self, number: int, best: Sequence[Beam]) -> list[Beam]:
        """Keep what has ended, and return the beams that go on; none once a group has all its answers."""
        running: list[Beam] = []
        for place, beam in enumerate(best):
            if beam.tokens[-1] in self._stop_ids:
                if place < self.width:  # an ending below the beams would never have been kept
                    self._ended[number].append(replace(beam, reason="stop"))
            elif len(running) < self.width:
                running.append(beam)
        if running and len(running[0].tokens) == self._limit:
            self._ended[number] += [replace(beam, reason="length") for beam in running]
            return []
        return [] if len(self._ended[number]) >= self.width else running


def search(searches: Sequence[Search], next_tokens: NextTokens) -> None:
    """Run searches side by side to their ends."""
    while True:
        prefixes = [search.prefixes() for search in searches]
        all_prefixes = list(chain.from_iterable(prefixes))
        if not all_prefixes:
            return
        likely = iter(next_tokens(all_prefixes, max(search.candidates for search in searches)))
        for each, own in zip(searches, prefixes, strict=True):
            if own:
                each.advance([next(likely) for _ in own])
