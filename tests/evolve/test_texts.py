from __future__ import annotations

import pytest

from rayalign.evolve.texts import Benchmarks, distinct_share, grams, normalised, shared_words


def test_case_and_spaces_do_not_count() -> None:
    assert normalised("  What \n IS it ? ") == "what is it ?"


def test_n_grams_by_hand() -> None:
    assert grams("ABCDEF") == {"abcde", "bcdef"}
    assert grams("abc") == {"abc"}


@pytest.mark.parametrize(
    ("ancestor", "text", "share"),
    [
        ("name a tree", "Name a TALL tree, please.", 1.0),
        ("name a tree", "name two birds", 1 / 3),
        ("tree tree tree bird", "a tree", 0.5),
        ("tree", "", 0.0),
        ("?!", "anything", 1.0),
    ],
)
def test_the_share_of_an_ancestors_words(ancestor: str, text: str, share: float) -> None:
    assert shared_words(ancestor, text) == pytest.approx(share)


def test_distinct_pairs_of_words_by_hand() -> None:
    assert distinct_share(["a b c", "a b d"]) == 3 / 4  # ab, bc, ab, bd
    assert distinct_share(["very very very very"]) == 1 / 3
    assert distinct_share(["word"]) == 1.0
    assert distinct_share(["a a b"], size=1) == 2 / 3


def test_runs_of_words_give_a_benchmark_away() -> None:
    benchmarks = Benchmarks(["one two three four five", "short one"], 4)
    assert benchmarks.overlaps("and TWO, three: four five ...")
    assert not benchmarks.overlaps("one two three 4 five")
    assert benchmarks.overlaps("Short one!")
    assert not benchmarks.overlaps("a short one it is")
    assert not benchmarks.overlaps("")
