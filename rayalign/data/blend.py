"""Several data sets as one, and shares of the prompts for the phases of a study (DeepSpeed-Chat's blending)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from rayalign.types import Prompt

T = TypeVar("T")


def interleaved(sources: Sequence[Iterator[T]], shares: Sequence[float]) -> Iterator[T]:
    """Examples of all sources, each as often as its share says, until all are exhausted; no example comes twice.

    The next one is of the source that is furthest behind its share, so that every prefix has the same proportions.
    """
    counts = [0] * len(sources)
    remaining = set(range(len(sources)))
    while remaining:
        source = min(remaining, key=lambda number: ((counts[number] + 1) / shares[number], number))
        example = next(sources[source], None)
        if example is None:
            remaining.discard(source)
            continue
        counts[source] += 1
        yield example


def in_phase(prompt: Prompt, phases: Sequence[float], phase: int) -> bool:
    """Whether a prompt belongs to one of the phases, counted from 1, that share all prompts in these proportions.

    It follows from the prompt's first turn alone, so that dialogues with one opening stay together, whatever file they
    come from and in whatever order.
    """
    first = prompt.messages[0].content if prompt.messages else prompt.id
    digest = hashlib.blake2b(first.encode("utf-8", "surrogatepass"), digest_size=8, person=b"phase").digest()
    place = int.from_bytes(digest, "little") / 2**64 * sum(phases)
    ends = list(accumulate(phases))
    start = ends[phase - 1] - phases[phase - 1]
    return start <= place < ends[phase - 1]


def hashed_split(opening_id: str) -> str:
    """The split of a dialogue by the id of its first turn, so that dialogues with one opening stay together."""
    return "test" if int(opening_id, 16) % 10 == 0 else "train"
