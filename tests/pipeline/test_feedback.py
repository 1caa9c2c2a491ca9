from __future__ import annotations

import pytest

from rayalign.pipeline.annotate import _pairs
from rayalign.pipeline.feedback import ranked
from rayalign.types import Candidate, Comparison, Example, Message, Prompt


def example(*texts: str, name: str = "p") -> Example:
    return Example(Prompt(name, (Message("user", "?"),)), tuple(Candidate(text) for text in texts))


def drawn(*examples: Example, count: int, seed: int = 0) -> list[tuple[str, str]]:
    return [(pair.first.text, pair.second.text) for pair in _pairs(examples, count, seed)]


def test_no_more_pairs_than_asked_for_and_none_twice() -> None:
    assert len(drawn(example("a", "b", "c", "d"), count=4)) == 4
    every = drawn(example("a", "b", "c"), count=99)
    assert sorted(map(sorted, every)) == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_equal_answers_are_never_compared() -> None:
    assert sorted(drawn(example("a", "a", "b"), count=9)[0]) == ["a", "b"]
    assert len(drawn(example("a", "a", "b"), count=9)) == 1
    assert drawn(example("a", "a"), example("b"), count=1) == []


def test_either_answer_may_come_first_and_only_the_prompt_and_the_seed_decide() -> None:
    examples = [example("a", "b", name=str(i)) for i in range(40)]
    pairs = drawn(*examples, count=1)
    assert 8 < pairs.count(("a", "b")) < 32
    assert drawn(*reversed(examples), count=1) == pairs[::-1]
    assert drawn(*examples, count=1, seed=1) != pairs


@pytest.mark.parametrize("count", [1, 2])
def test_pairs_stay_with_their_prompt(count: int) -> None:
    groups = [example("a", "b", "c", name="x"), example("d", "e", "f", name="y")]
    named = [(pair.prompt.id, {pair.first.text, pair.second.text}) for pair in _pairs(groups, count, 0)]
    assert [name for name, _ in named] == ["x"] * count + ["y"] * count
    assert all(texts <= set("abc" if name == "x" else "def") for name, texts in named)


def verdict(first: str, second: str, preference: float | None, name: str = "p") -> Comparison:
    prompt = Prompt(name, (Message("user", "?"),))
    return Comparison(prompt, Candidate(first), Candidate(second), preference, "judge")


def test_verdicts_on_a_prompt_become_one_ranking() -> None:
    """a beats b and c; b beats c in one verdict, loses in another, ties in a third."""
    said = [("a", "b", 1.0), ("c", "a", 2.0), ("b", "c", 1.0), ("c", "b", 1.0), ("b", "c", 1.5)]
    (row,) = ranked(verdict(*one) for one in said)
    assert {c.text: c.score for c in row.candidates} == {"a": 1.0, "b": 1.5 / 4, "c": 1.5 / 4}


def test_a_comparison_without_a_verdict_says_nothing() -> None:
    rows = ranked([verdict("a", "b", None), verdict("a", "b", 2.0, name="q"), verdict("a", "c", None, name="q")])
    assert [(row.prompt.id, {c.text: c.score for c in row.candidates}) for row in rows] == [("q", {"a": 0.0, "b": 1.0})]
