"""Answers that are good or bad by themselves, and the answers to other prompts that estimate a KL beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby, pairwise

from rayalign.data.dialogue import described
from rayalign.data.fields import ANSWERS, answer_field, first_present, row_prompt
from rayalign.data.files import Row
from rayalign.data.pairs import pairs_of_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example

LABELS = ("desirable", "label")
"""keys of a row that say whether its answer is a good one"""
_WORDS = {"true": True, "false": False, "1": True, "0": False}
"""what a table writes for true and false"""


def unpaired(row: Row, where: str) -> Example | str:
    """A prompt with `answer`, `response` or `completion`, and `desirable` (or TRL's `label`): true or false."""
    answer = answer_field(row, first_present(row, ANSWERS) or ANSWERS[0], where)
    key = first_present(row, LABELS) or LABELS[0]
    desirable = row.get(key)
    if isinstance(desirable, str):
        desirable = _WORDS.get(desirable.lower(), desirable)
    if not isinstance(desirable, bool):
        what = repr(desirable) if isinstance(desirable, str) else described(desirable)
        raise InputError(f"{where}: {key!r} must be true or false, but it is {what}")
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
