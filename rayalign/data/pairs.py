"""Comparisons as pairs: the preferred answer first, with the probability that it is the better one.

A pair keeps its identity: it is not flattened into scores of a group, as a reward model reads the same verdicts. The
score of its answers is their share of wins: the mean probability of beating the answers to the prompt that it was
compared with, and itself, which counts as 1/2.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from statistics import mean

from rayalign.types import Candidate, Comparison, Example, Message, Prompt, Words

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """Which of two answers to a prompt is better?"""

    prompt: Prompt
    first: Candidate
    second: Candidate


def pairs_of_comparisons(comparisons: Iterable[Comparison]) -> Iterator[Example]:
    """Each pair of answers once, with the mean of its verdicts.

    A verdict between 1 and 2 (AlpacaFarm) is the probability `2 - verdict` that the first answer is better; verdicts on
    the same two answers in either order are averaged, so that judges who disagree leave an uncertain pair. A pair whose
    mean is 1/2 is a tie; ties and pairs without a verdict are left out, counted in a warning.
    """
    verdicts: dict[tuple[str, Words, Words], _Verdicts] = {}
    for comparison in comparisons:
        first, second = sorted((comparison.first, comparison.second), key=_order_of)
        key = (comparison.prompt.id, first.words, second.words)
        pair = verdicts.setdefault(key, _Verdicts(comparison.prompt, first, second))
        if comparison.preference is not None:
            probability = 2.0 - comparison.preference
            pair.probabilities.append(probability if comparison.first is first else 1.0 - probability)
    duels = [(*pair.keys, mean(pair.probabilities)) for pair in verdicts.values() if pair.probabilities]
    shares = _shares(duels)
    yield from _decided(pair.example(shares) for pair in verdicts.values())


def pairs_of_examples(examples: Iterable[Example]) -> Iterator[Example]:
    """The pairs of each row of a data set: its own preference, or for a ranking all pairs of unlike scores, each sure.

    Rows come one at a time, so the same pair in two rows stays two pairs.
    """
    yield from _decided(chain.from_iterable(map(_pairs, examples)))


@dataclass(slots=True)
class _Verdicts:
    prompt: Prompt
    first: Candidate
    second: Candidate
    probabilities: list[float] = field(default_factory=list)
    """that the first is better, by each verdict"""

    @property
    def keys(self) -> tuple[Hashable, Hashable]:
        """Of both answers, among all prompts."""
        return (self.prompt.id, self.first.words), (self.prompt.id, self.second.words)

    def example(self, shares: Mapping[Hashable, float]) -> Example:
        if not self.probabilities:
            return Example(self.prompt, (self.first, self.second))
        first, second = (shares[key] for key in self.keys)
        candidates = (replace(self.first, score=first), replace(self.second, score=second))
        return Example(self.prompt, candidates, mean(self.probabilities))


def _order_of(answer: Candidate) -> tuple[str, list[tuple[str, str]]]:
    """The place of an answer in an order of all answers."""
    return answer.text, [(turn.role, turn.content) for turn in answer.turns]


def _pairs(example: Example) -> Iterator[Example]:
    answers, duels = example.candidates, _duels(example)
    shares = _shares(duels)
    for first, second, probability in duels:
        pair = tuple(replace(answers[place], score=shares[place]) for place in (first, second))
        yield Example(example.prompt, pair, probability)


def _duels(example: Example) -> list[tuple[int, int, float]]:
    """Every two answers of a row, by their places, with the probability that the first is better."""
    if example.preference is not None:
        return [(0, 1, example.preference)]
    scores = {place: answer.score for place, answer in enumerate(example.candidates) if answer.score is not None}
    return [(first, second, _order(scores[first], scores[second])) for first, second in combinations(scores, 2)]


def _order(first: float, second: float) -> float:
    """1 where the first score is higher, 0 where the second is, 1/2 where they are equal."""
    return (1.0 + (first > second) - (first < second)) / 2


def _shares(duels: Iterable[tuple[Hashable, Hashable, float]]) -> dict[Hashable, float]:
    """The share of wins of each answer, by its key."""
    wins: dict[Hashable, list[float]] = {}
    for first, second, probability in duels:
        wins.setdefault(first, [0.5]).append(probability)
        wins.setdefault(second, [0.5]).append(1.0 - probability)
    return {key: mean(probabilities) for key, probabilities in wins.items()}


def _words(answer: Candidate) -> tuple[str, tuple[Message, ...]]:
    return answer.text.strip(), answer.turns


def _decided(pairs: Iterable[Example]) -> Iterator[Example]:
    """The pairs with a better answer, that one first. Two answers of the same text are a tie, whatever was said."""
    ties = undecided = total = 0
    for pair in pairs:
        total += 1
        first, second = pair.candidates
        if pair.preference is None:
            undecided += 1
        elif pair.preference == 0.5 or _words(first) == _words(second):
            ties += 1
        elif pair.preference > 0.5:
            yield pair
        else:
            yield Example(pair.prompt, (second, first), 1.0 - pair.preference)
    if ties or undecided:
        log.warning("%d pairs: %d ties and %d without a verdict are left out", total, ties, undecided)
