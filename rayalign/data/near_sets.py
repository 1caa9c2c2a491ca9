"""Sets that are much like one another, such as the word runs of two texts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

from rayalign.errors import InputError

Hashes = frozenset[int]
"""32-bit hashes, so that their own order serves as the common one"""


def hashes(texts: Iterable[str]) -> Hashes:
    """Of the content alone, so that every process and every run decides alike."""
    return frozenset(zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in texts)


def similarity(first: Hashes, second: Hashes) -> float:
    """Jaccard's similarity of two sets: the share of the elements of either that both have."""
    return len(first & second) / (len(first | second) or 1)


class NearSets:
    """Sets that can be asked for those whose similarity to another one is at least a threshold.

    Exact by prefix filtering (Chaudhuri 2006): sets that share at least a share t of both share one of the first
    n - ceil(t n) + 1 elements in any common order.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise InputError(f"near duplicates have a similarity above 0 and at most 1, not {threshold:g}")
        self._threshold = threshold
        self._sets: list[Hashes] = []
        self._places: dict[int, list[int]] = {}

    def add(self, elements: Hashes) -> None:
        """Remember a set; its number is how many there were before."""
        for element in self._prefix(elements):
            self._places.setdefault(element, []).append(len(self._sets))
        self._sets.append(elements)

    def near(self, elements: Hashes) -> list[int]:
        """The numbers of the sets that are near."""
        places: set[int] = set()
        for element in self._prefix(elements):
            places.update(self._places.get(element, ()))
        return [place for place in sorted(places) if similarity(elements, self._sets[place]) >= self._threshold]

    def _prefix(self, elements: Hashes) -> list[int]:
        ordered = sorted(elements)
        return ordered[: len(ordered) - math.ceil(self._threshold * len(ordered)) + 1]
