"""The few rows of a data set that are most likely to break something: all are read, these are trained on."""

from __future__ import annotations

import heapq
import random
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from rayalign.types import Example

EACH = 2
"""rows of each kind"""
SAMPLE = 8
"""rows drawn at random"""
_ODD = frozenset({"Cf", "Co", "Mn", "So", "Cc", "Cs"})
"""categories of invisible, combining and pictorial characters"""
_PLAIN_CONTROLS = frozenset("\n\t\r")


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen rows, and how many of each kind there are."""

    examples: tuple[Example, ...]
    kinds: dict[str, int]
    total: int
    """rows that were read"""


def choose(examples: Iterable[Example], seed: int) -> Choice:
    """The longest, shortest and emptiest rows, those of odd Unicode and of most turns, and a random sample."""
    most: dict[str, list[tuple[float, int, Example]]] = {
        kind: [] for kind in ("longest", "shortest", "emptiest answer", "odd Unicode", "most turns", "system turn")
    }
    sample: list[tuple[int, Example]] = []
    draw = random.Random(seed)
    total = 0
    for total, example in enumerate(examples, start=1):
        for kind, rank in _ranks(example).items():
            _keep(most[kind], (rank, -total, example))
        _draw_into(sample, example, total, draw)
    # By the number of the row, since several rows may have one prompt.
    chosen: dict[int, Example] = {}
    kinds: dict[str, int] = {}
    for kind, entries in most.items():
        kinds[kind] = len(entries)
        for _, negative_number, example in entries:
            chosen[-negative_number] = example
    chosen.update(sample)
    kinds["random"] = len(sample)
    return Choice(tuple(chosen.values()), kinds, total)


def _ranks(example: Example) -> dict[str, float]:
    """How much the row is of each kind; kinds that it is not of are left out."""
    turns = [message.content for message in example.prompt.messages]
    answers = [candidate.text for candidate in example.candidates]
    text = "".join([*turns, *answers])
    ranks = {"longest": float(len(text)), "shortest": -float(len(text)), "most turns": float(len(turns))}
    if answers:
        ranks["emptiest answer"] = -float(min(map(len, answers)))
    odd = sum(_is_odd(character) for character in text) if not text.isascii() else 0
    if odd:
        ranks["odd Unicode"] = float(odd)
    if any(message.role == "system" for message in example.prompt.messages):
        ranks["system turn"] = float(len(text))
    return ranks


def _is_odd(character: str) -> bool:
    if character in _PLAIN_CONTROLS:
        return False
    return unicodedata.category(character) in _ODD or unicodedata.bidirectional(character) in ("R", "AL")


def _keep(entries: list[tuple[float, int, Example]], entry: tuple[float, int, Example]) -> None:
    """Put an entry among the best; of equals the first rows stay."""
    if len(entries) < EACH:
        heapq.heappush(entries, entry)
    else:
        heapq.heappushpop(entries, entry)


def _draw_into(sample: list[tuple[int, Example]], example: Example, number: int, draw: random.Random) -> None:
    """Reservoir sampling: each row so far is in the sample with the same chance."""
    if len(sample) < SAMPLE:
        sample.append((number, example))
        return
    place = draw.randrange(number)
    if place < SAMPLE:
        sample[place] = (number, example)
