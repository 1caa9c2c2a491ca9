"""How alike texts are: near duplicates, overlap of words, repetition.

Hashes are of the content alone, so that every process and every run decides alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

GRAM = 5
"""characters of an n-gram by which texts are compared"""


def normalised(text: str) -> str:
    """The text in lower case, with single spaces."""
    return " ".join(text.lower().split())


def grams(text: str) -> frozenset[str]:
    """The character n-grams of a normalised text; a shorter text is one by itself."""
    clean = normalised(text)
    starts = range(max(1, len(clean) - GRAM + 1))
    return frozenset(clean[start : start + GRAM] for start in starts)


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
