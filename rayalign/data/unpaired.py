"""Answers that are good or bad by themselves, and the answers to other prompts that estimate a KL beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby, pairwise

from rayalign.data.fields import row_prompt, text_field
from rayalign.data.files import Row
from rayalign.data.pairs import pairs_of_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example

_ANSWERS = ("answer", "response", "completion")
_LABELS = ("desirable", "label")


def unpaired(row: Row, where: str) -> Example | str:
    """A prompt with `answer`, `response` or `completion`, and `desirable` (or TRL's `label`): true or false."""
    answer = text_field(row, next((key for key in _ANSWERS if key in row), _ANSWERS[0]), where)
    key = next((key for key in _LABELS if key in row), _LABELS[0])
    desirable = row.get(key)
    if not isinstance(desirable, bool):
        raise InputError(f"{where}: {key!r} must be true or false, this is {desirable!r}")
    if not answer.strip():
        return "an empty answer"
    return Example(row_prompt(row, where), (Candidate(answer),), desirable=float(desirable))


def single_answers(examples: Iterable[Example]) -> Iterator[Example]:
    """Each answer by itself, with the probability that it is a good one.

    Rows of answers that are good or bad stay as they are. Any other row is read as pairs, see `answers_of_pairs`.
    """
    rows = iter(examples)
    first = next(rows, None)
    if first is None:
        return iter(())
    rows = chain([first], rows)  # one data set has rows of one kind
    return rows if first.desirable is not None else answers_of_pairs(pairs_of_examples(rows))


def answers_of_pairs(pairs: Iterable[Example]) -> Iterator[Example]:
    """Both answers of each pair: the chosen one is good with the probability of the preference, the other one bad."""
    for pair in pairs:
        chosen, rejected = pair.candidates
        assert pair.preference is not None
        yield Example(pair.prompt, (chosen,), desirable=pair.preference)
        yield Example(pair.prompt, (rejected,), desirable=1.0 - pair.preference)


def with_mismatched(examples: Iterable[Example]) -> Iterator[Example]:
    """Each row with a second candidate: an answer to the next prompt, and for the last prompt one to the first.

    The answers to a prompt take those to the next one in turn.

    Raises:
        InputError: all rows have the same prompt.
    """
    runs = (list(run) for _, run in groupby(examples, key=lambda example: example.prompt.id))
    first = next(runs, None)
    if first is None:
        return
    last = first
    for run, following in pairwise(chain([first], runs)):
        yield from _mismatched(run, following)
        last = following
    if last is first:
        raise InputError("an answer to another prompt estimates the KL, and all rows have one prompt; give more rows")
    yield from _mismatched(last, first)


def _mismatched(run: list[Example], following: list[Example]) -> Iterator[Example]:
    for place, example in enumerate(run):
        foreign = following[place % len(following)].candidates[0]
        yield replace(example, candidates=(*example.candidates, foreign))
