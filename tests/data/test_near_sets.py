from __future__ import annotations

import random

import pytest

from rayalign.data.near_sets import NearSets, hashes, similarity
from rayalign.errors import InputError


def test_similarity_by_hand() -> None:
    assert similarity(hashes("abc"), hashes("abd")) == 2 / 4
    assert similarity(hashes(""), hashes("")) == 0.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_the_index_gives_what_a_search_through_all_gives(threshold: float) -> None:
    draw = random.Random(0)
    sets = [hashes(draw.choices("abcdefgh", k=draw.randint(1, 6))) for _ in range(120)]
    index = NearSets(threshold)
    for elements in sets[:80]:
        index.add(elements)
    counts = set()
    for elements in sets[80:]:
        expected = [place for place in range(80) if similarity(elements, sets[place]) >= threshold]
        assert index.near(elements) == expected
        counts.add(len(expected))
    assert len(counts) > 1


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_a_threshold_that_cannot_be_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        NearSets(threshold)
