"""How alike texts are: near duplicates, overlap of words, repetition.

Hashes are of the content alone, so that every process and every run decides alike.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

GRAM = 5
"""characters of an n-gram by which texts are compared"""
_BANDS, _ROWS = 32, 4
"""of MinHash: two texts as similar as 0.6 meet in a band with probability 0.988, as 0.9 with 1 - 1e-14"""
_PRIME = np.uint64(4294967311)
"""the first above 2 ** 32"""


def normalised(text: str) -> str:
    """The text in lower case, with single spaces."""
    return " ".join(text.lower().split())


def grams(text: str) -> frozenset[str]:
    """The character n-grams of a normalised text; a shorter text is one by itself."""
    clean = normalised(text)
    starts = range(max(1, len(clean) - GRAM + 1))
    return frozenset(clean[start : start + GRAM] for start in starts)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Share of the n-grams of either that both have."""
    return len(first & second) / len(first | second)


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, in lower case."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def shared_words(ancestor: str, text: str) -> float:
    """Share of the ancestor's distinct words that the text has; 1 for an ancestor without words."""
    before = set(words(ancestor))
    return len(before & set(words(text))) / len(before) if before else 1.0


def distinct_share(texts: Iterable[str], size: int = 2) -> float:
    """Distinct runs of `size` words, as a share of all in all texts (Li 2016, distinct-n); 1 where there are none."""
    runs: list[tuple[str, ...]] = []
    for text in texts:
        runs += word_runs(text, size)
    return len(set(runs)) / len(runs) if runs else 1.0


def word_runs(text: str, size: int) -> list[tuple[str, ...]]:
    """Every `size` words in a row."""
    own = words(text)
    return [tuple(own[start : start + size]) for start in range(len(own) - size + 1)]


class NearDuplicates:
    """The texts of a pool that are much like a new one (Broder 1997): MinHash proposes, exact Jaccard decides."""

    def __init__(self, threshold: float) -> None:
        """
        Args:
            threshold: Jaccard similarity of character n-grams from which a text is a near duplicate; below 0.6 some
                pairs are missed.
        """
        self._threshold = threshold
        generator = np.random.default_rng(0)
        self._factors = generator.integers(1, 2**31, _BANDS * _ROWS, dtype=np.uint64)
        self._terms = generator.integers(0, 2**31, _BANDS * _ROWS, dtype=np.uint64)
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._grams: list[frozenset[str]] = []

    def add(self, text: str) -> None:
        """Put a text into the pool."""
        own = grams(text)
        for band in self._keys(own):
            self._bands[band].append(len(self._grams))
        self._grams.append(own)

    def similarity(self, text: str) -> float:
        """Of the most similar text of the pool, 0 where none comes near the threshold."""
        own = grams(text)
        places: set[int] = set()
        for band in self._keys(own):
            places.update(self._bands.get(band, ()))
        return max((jaccard(own, self._grams[place]) for place in places), default=0.0)

    def repeats(self, text: str) -> bool:
        """Whether the text is a near duplicate of one in the pool."""
        return self.similarity(text) >= self._threshold

    def _keys(self, own: frozenset[str]) -> list[tuple[int, bytes]]:
        """The key of each band: the least hashes of the n-grams."""
        hashes_G = np.array([zlib.crc32(gram.encode("utf-8", "surrogatepass")) for gram in own], dtype=np.uint64)
        least: npt.NDArray[np.uint64] = ((hashes_G[:, None] * self._factors + self._terms) % _PRIME).min(axis=0)
        return [(band, least[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]


class Benchmarks:
    """Texts that must not come up in training: by runs of words, as GPT-3's authors did (Brown 2020, appendix C)."""

    def __init__(self, texts: Iterable[str], size: int) -> None:
        """
        Args:
            size: words in a row that count as the same text; a shorter text has to be equal as a whole.
        """
        self._size = size
        self._runs: set[int] = set()
        for text in texts:
            self._runs.update(self._hashes(text))

    def overlaps(self, text: str) -> bool:
        """Whether the text shares a run of words with one of them."""
        return not self._runs.isdisjoint(self._hashes(text))

    def _hashes(self, text: str) -> set[int]:
        runs = word_runs(text, self._size) or [tuple(words(text))]
        return {_hash(" ".join(run)) for run in runs if run}


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.adler32(data)
