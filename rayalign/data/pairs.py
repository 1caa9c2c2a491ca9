"""Comparisons as pairs: the preferred answer first, with the probability that it is the better one.

A pair keeps its identity: it is not flattened into scores of a group, as a reward model reads the same verdicts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations
from statistics import mean

from rayalign.types import Candidate, Comparison, Example, Prompt

log = logging.getLogger(__name__)


def pairs_of_comparisons(comparisons: Iterable[Comparison]) -> Iterator[Example]:
    """Each pair of answers once, with the mean of its verdicts.

    A verdict between 1 and 2 (AlpacaFarm) is the probability `2 - verdict` that the first answer is better; verdicts on
    the same two answers in either order are averaged, so that judges who disagree leave an uncertain pair. A pair whose
    mean is 1/2 is a tie; ties and pairs without a verdict are left out, counted in a warning.
    """
    verdicts: dict[tuple[str, str, str], _Verdicts] = {}
    for comparison in comparisons:
        first, second = sorted((comparison.first, comparison.second), key=lambda answer: answer.text)
        key = (comparison.prompt.id, first.text, second.text)
        pair = verdicts.setdefault(key, _Verdicts(comparison.prompt, first, second))
        if comparison.preference is not None:
            probability = 2.0 - comparison.preference
            pair.probabilities.append(probability if comparison.first is first else 1.0 - probability)
    yield from _decided(pair.example() for pair in verdicts.values())


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

    def example(self) -> Example:
        preference = mean(self.probabilities) if self.probabilities else None
        return Example(self.prompt, (self.first, self.second), preference)


def _pairs(example: Example) -> Iterator[Example]:
    if example.preference is not None:
        yield example
        return
    scored = [candidate for candidate in example.candidates if candidate.score is not None]
    for first, second in combinations(scored, 2):
        assert first.score is not None and second.score is not None
        preference = (1.0 + (first.score > second.score) - (first.score < second.score)) / 2
        yield Example(example.prompt, (first, second), preference)


def _decided(pairs: Iterable[Example]) -> Iterator[Example]:
    """The pairs with a better answer, that one first."""
    ties = undecided = total = 0
    for pair in pairs:
        total += 1
        if pair.preference is None:
            undecided += 1
        elif pair.preference == 0.5:
            ties += 1
        elif pair.preference > 0.5:
            yield pair
        else:
            first, second = pair.candidates
            yield Example(pair.prompt, (second, first), 1.0 - pair.preference)
    if ties or undecided:
        log.warning("%d pairs: %d ties and %d without a verdict are left out", total, ties, undecided)
