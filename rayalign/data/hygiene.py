"""Duplicates among training rows, and leaks between the rows trained on and those held out.

    row         a prompt's last turn with its answers: all of an example as one row, or each by itself for leaks
    exact       the same words at every place, whatever their case and punctuation
    near        at every place, the sets of word triples have a Jaccard similarity of at least the threshold

Prompts and answers are compared apart, so that a long prompt does not make two short answers alike. Answers of one
example are never compared with each other: that they differ is what it teaches.

Two rows of one prompt under different profiles of preferences are no duplicates: a judge may order the same answers
otherwise under each of them. They stay on one side of a split, since it is made by the prompt that they share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayalign.data.near_sets import Hashes, NearSets, hashes, similarity
from rayalign.data.preferences import base_id
from rayalign.errors import InputError
from rayalign.types import Example, Prompt

_WORD = re.compile(r"\w+")
_RUN = 3
"""words"""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and one or several answers, as they are compared with others."""

    prompt: str
    base: str
    """the prompt without preferences, by which splits are made"""
    parts: tuple[Hashes, ...]
    """word triples of the last turn, then of each answer; equal triples at two places are two elements"""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Examples that were removed."""

    exact: int
    near: int


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What the held-out side of a split shares with the other."""

    prompts: int
    """held-out prompts that are trained on too, with these or other preferences"""
    exact: int
    """held-out answers that stand in a row trained on"""
    near: int
    """held-out answers that are near to one of these, without the exact ones"""
    rows: int
    """held-out answers"""


class _Rows:
    """Rows that can be asked for those near to another one."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._rows: list[Row] = []
        self._near = NearSets(threshold)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._near.add(_elements(row))

    def near(self, row: Row) -> list[Row]:
        """Where all parts are near, so is their union, which is what the index looks up."""
        candidates = [self._rows[place] for place in self._near.near(_elements(row))]
        return [candidate for candidate in candidates if self._alike(row, candidate)]

    def _alike(self, first: Row, second: Row) -> bool:
        if len(first.parts) != len(second.parts):
            return False
        pairs = zip(first.parts, second.parts, strict=True)
        return all(similarity(ours, theirs) >= self._threshold for ours, theirs in pairs)


def _elements(row: Row) -> Hashes:
    return frozenset[int]().union(*row.parts)


def row_of(prompt: Prompt, *answers: str) -> Row:
    """Every turn of a prompt with answers."""
    texts = (*(message.content for message in prompt.messages), *answers)
    parts = []
    for place, text in enumerate(texts):
        parts.append(hashes(f"{place} {run}" for run in _runs(text)))
    return Row(prompt.id, base_id(prompt), tuple(parts))


def _runs(text: str) -> list[str]:
    """Every three words in a row; a shorter text is one run."""
    words = _WORD.findall(text.casefold())
    ends = range(_RUN, max(len(words), _RUN) + 1)
    return [" ".join(words[end - _RUN : end]) for end in ends]


def without_duplicates(examples: Iterable[Example], *, near: float) -> tuple[list[Example], Duplicates]:
    """Examples without those that are exact or near duplicates of an earlier one, answer by answer in their order.

    Raises:
        InputError: the threshold is not above 0 and at most 1.
    """
    rows = _Rows(near)
    distinct: list[Example] = []
    exact = similar = 0
    for example in examples:
        row = row_of(example.prompt, *(candidate.text for candidate in example.candidates))
        twins = [twin for twin in rows.near(row) if _compare(row, twin)]
        if any(twin.parts == row.parts for twin in twins):
            exact += 1
        elif twins:
            similar += 1
        else:
            rows.add(row)
            distinct.append(example)
    return distinct, Duplicates(exact, similar)


def _compare(row: Row, earlier: Row) -> bool:
    """Whether two rows would be duplicates: not under two profiles of one prompt."""
    return row.prompt == earlier.prompt or row.base != earlier.base


def leak_report(training: Sequence[Example], heldout: Sequence[Example], *, near: float) -> LeakReport:
    """What the held-out examples share with those trained on.

    Raises:
        InputError: as `without_duplicates`.
    """
    rows = _Rows(near)
    for example in training:
        for candidate in example.candidates:
            rows.add(row_of(example.prompt, candidate.text))
    bases = {base_id(example.prompt) for example in training}
    exact = similar = total = 0
    for example in heldout:
        for candidate in example.candidates:
            row = row_of(example.prompt, candidate.text)
            twins = rows.near(row)
            same = any(twin.parts == row.parts for twin in twins)
            exact += same
            similar += bool(twins) and not same
            total += 1
    shared = {base_id(example.prompt) for example in heldout} & bases
    return LeakReport(len(shared), exact, similar, total)


def refuse_leaks(report: LeakReport) -> None:
    """InputError where a split leaks."""
    if report.prompts or report.exact or report.near:
        raise InputError(
            f"the held-out rows leak: {report.prompts} prompts are on both sides, {report.exact} of {report.rows} "
            f"answers stand in training rows and {report.near} nearly so; split by prompt and remove duplicates first"
        )
