"""Duplicates among training rows, and leaks between the rows trained on and those held out.

    row         a prompt's last turn and one answer
    exact       the same words, whatever their case and punctuation
    near        the sets of their word triples have a Jaccard similarity of at least the threshold

Two rows of one prompt under different profiles of preferences are no duplicates: a judge may order the same answers
otherwise under each of them. They stay on one side of a split, since it is made by the prompt that they share.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rayalign.data.preferences import base_id
from rayalign.errors import InputError
from rayalign.types import Example, Prompt

_WORD = re.compile(r"\w+")
_SHINGLE = 3
Shingles = frozenset[int]
"""32-bit hashes of word triples, so that their own order serves as the common one"""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to a prompt, as it is compared with others."""

    prompt: str
    base: str
    """the prompt without preferences, by which splits are made"""
    shingles: Shingles


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Answers that were removed."""

    exact: int
    near: int
    examples: int
    """examples that were left out since fewer than two answers were left of several"""


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


class NearRows:
    """Rows that can be asked for those near to another one.

    Exact by prefix filtering (Chaudhuri 2006): rows that share at least a share t of both their sets share one of the
    first n - ceil(t n) + 1 elements in any common order.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise InputError(f"near_duplicates is {threshold:g}; give a similarity above 0 and at most 1")
        self._threshold = threshold
        self._rows: list[Row] = []
        self._places: dict[int, list[int]] = {}

    def add(self, row: Row) -> None:
        """Remember a row."""
        for shingle in self._prefix(row.shingles):
            self._places.setdefault(shingle, []).append(len(self._rows))
        self._rows.append(row)

    def near(self, row: Row) -> Iterator[Row]:
        """The rows whose similarity is at least the threshold."""
        places: set[int] = set()
        for shingle in self._prefix(row.shingles):
            places.update(self._places.get(shingle, ()))
        for place in sorted(places):
            candidate = self._rows[place]
            if similarity(row.shingles, candidate.shingles) >= self._threshold:
                yield candidate

    def _prefix(self, shingles: Shingles) -> list[int]:
        ordered = sorted(shingles)
        return ordered[: len(ordered) - math.ceil(self._threshold * len(ordered)) + 1]


def similarity(first: Shingles, second: Shingles) -> float:
    """Jaccard's similarity of two sets."""
    return len(first & second) / (len(first | second) or 1)


def row_of(prompt: Prompt, answer: str) -> Row:
    """An answer with its prompt's last turn."""
    words = _WORD.findall(f"{prompt.messages[-1].content} {answer}".casefold())
    ends = range(_SHINGLE, max(len(words), _SHINGLE) + 1)
    triples = (" ".join(words[end - _SHINGLE : end]) for end in ends)
    return Row(prompt.id, base_id(prompt), frozenset(zlib.crc32(triple.encode()) for triple in triples))


def without_duplicates(examples: Iterable[Example], *, near: float) -> tuple[list[Example], Duplicates]:
    """Examples without the answers that are exact or near duplicates of an earlier row.

    An example that had several answers and keeps fewer than two is left out.

    Raises:
        InputError: the threshold is not above 0 and at most 1.
    """
    rows = NearRows(near)
    distinct: list[Example] = []
    exact = similar = dropped = 0
    for example in examples:
        answers = []
        for candidate in example.candidates:
            row = row_of(example.prompt, candidate.text)
            twins = [twin for twin in rows.near(row) if _compare(row, twin)]
            if any(twin.shingles == row.shingles for twin in twins):
                exact += 1
            elif twins:
                similar += 1
            else:
                rows.add(row)
                answers.append(candidate)
        if len(answers) == len(example.candidates):
            distinct.append(example)
        elif len(answers) >= 2:
            distinct.append(replace(example, candidates=tuple(answers)))
        else:
            dropped += 1
    return distinct, Duplicates(exact, similar, dropped)


def _compare(row: Row, earlier: Row) -> bool:
    """Whether two rows would be duplicates: not under two profiles of one prompt."""
    return row.prompt == earlier.prompt or row.base != earlier.base


def leak_report(training: Sequence[Example], heldout: Sequence[Example], *, near: float) -> LeakReport:
    """What the held-out examples share with those trained on.

    Raises:
        InputError: as `without_duplicates`.
    """
    rows = NearRows(near)
    for example in training:
        for candidate in example.candidates:
            rows.add(row_of(example.prompt, candidate.text))
    bases = {base_id(example.prompt) for example in training}
    exact = similar = total = 0
    for example in heldout:
        for candidate in example.candidates:
            row = row_of(example.prompt, candidate.text)
            twins = list(rows.near(row))
            same = any(twin.shingles == row.shingles for twin in twins)
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
