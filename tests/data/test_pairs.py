from __future__ import annotations

import pytest

from rayalign.data.pairs import pairs_of_comparisons, pairs_of_examples
from rayalign.types import Candidate, Comparison, Example, Message, Prompt

PROMPT = Prompt("p", (Message("user", "q"),))
OTHER = Prompt("r", (Message("user", "s"),))


def verdict(first: str, second: str, preference: float | None, prompt: Prompt = PROMPT) -> Comparison:
    return Comparison(prompt, Candidate(first), Candidate(second), preference, "judge")


def shown(pairs: object) -> list[tuple[str, str, str, float | None]]:
    return [(p.prompt.id, *(c.text for c in p.candidates), p.preference) for p in pairs]  # type: ignore[attr-defined]


def test_the_preferred_answer_comes_first_with_its_probability() -> None:
    verdicts = [verdict("x", "y", 1.0), verdict("x", "z", 1.75), verdict("x", "y", 2.0, OTHER)]
    assert shown(pairs_of_comparisons(verdicts)) == [("p", "x", "y", 1.0), ("p", "z", "x", 0.75), ("r", "y", "x", 1.0)]


def test_verdicts_on_one_pair_are_averaged_in_whichever_order_it_was_shown() -> None:
    verdicts = [verdict("x", "y", 1.0), verdict("y", "x", 2.0), verdict("x", "y", 2.0), verdict("y", "x", None)]
    assert shown(pairs_of_comparisons(verdicts)) == [("p", "x", "y", pytest.approx(2 / 3))]


def test_ties_and_pairs_without_a_verdict_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    verdicts = [
        verdict("a", "b", 1.5),
        verdict("a", "c", None),
        verdict("a", "d", 1.0),
        verdict("d", "a", 1.0),
        verdict("a", "e", 1.0),
    ]
    assert shown(pairs_of_comparisons(verdicts)) == [("p", "a", "e", 1.0)]
    assert "4 pairs: 2 ties and 1 without a verdict are left out" in caplog.text


def test_two_answers_of_the_same_text_are_a_tie(caplog: pytest.LogCaptureFixture) -> None:
    same = Example(PROMPT, (Candidate("x", score=1.0), Candidate("x ", score=0.0)))
    assert shown(pairs_of_examples([same])) == []
    assert shown(pairs_of_comparisons([verdict("y", "y", 1.0)])) == []
    assert "1 pairs: 1 ties and 0 without a verdict are left out" in caplog.text


def test_a_cycle_stays_what_was_said_of_each_pair() -> None:
    verdicts = [verdict("x", "y", 1.0), verdict("y", "z", 1.0), verdict("z", "x", 1.0)]
    assert shown(pairs_of_comparisons(verdicts)) == [("p", "x", "y", 1.0), ("p", "y", "z", 1.0), ("p", "z", "x", 1.0)]


def test_rows_of_a_data_set_are_their_own_preference_or_all_pairs_of_unlike_scores() -> None:
    probable = Example(PROMPT, (Candidate("x", score=0.25), Candidate("y", score=0.75)), preference=0.25)
    sure = Example(PROMPT, (Candidate("x", score=1.0), Candidate("y", score=0.0)))
    scores = {"a": 7.0, "b": 9.0, "c": 7.0, "d": None}
    ranking = Example(OTHER, tuple(Candidate(text, score=score) for text, score in scores.items()))
    assert shown(pairs_of_examples([probable, sure, ranking])) == [
        ("p", "y", "x", 0.75),
        ("p", "x", "y", 1.0),
        ("r", "b", "a", 1.0),
        ("r", "b", "c", 1.0),
    ]


def shares(pairs: object) -> list[tuple[float | None, ...]]:
    return [tuple(c.score for c in p.candidates) for p in pairs]  # type: ignore[attr-defined]


def test_the_answers_of_a_pair_have_their_share_of_wins() -> None:
    # x against itself, y, z: (1/2 + 1 + 1/4) / 3; y: (1/2 + 0) / 2; z: (1/2 + 3/4) / 2
    verdicts = [verdict("x", "y", 1.0), verdict("x", "z", 1.75), verdict("y", "z", None)]
    assert shares(pairs_of_comparisons(verdicts)) == [(pytest.approx(1.75 / 3), 0.25), (0.625, pytest.approx(1.75 / 3))]


def test_a_tie_counts_among_the_wins_of_other_pairs() -> None:
    verdicts = [verdict("x", "y", 1.5), verdict("x", "z", 1.0)]
    assert shares(pairs_of_comparisons(verdicts)) == [(pytest.approx(2 / 3), 0.25)]


def test_the_same_text_under_another_prompt_is_another_answer() -> None:
    verdicts = [verdict("x", "y", 1.0), verdict("x", "y", 2.0, OTHER)]
    assert shares(pairs_of_comparisons(verdicts)) == [(0.75, 0.25), (0.75, 0.25)]


def test_a_row_has_the_shares_of_its_own_answers() -> None:
    probable = Example(PROMPT, (Candidate("x", score=0.25), Candidate("y", score=0.75)), preference=0.25)
    ranking = Example(
        OTHER, tuple(Candidate(text, score=score) for text, score in zip("abcd", (7, 9, 7, 1), strict=True))
    )
    assert shares(pairs_of_examples([probable])) == [(0.625, 0.375)]
    # of b 3.5 / 4, of a and c (1/2 + 0 + 1/2 + 1) / 4, of d 0.5 / 4
    assert shares(pairs_of_examples([ranking])) == [
        (0.875, 0.5),
        (0.5, 0.125),
        (0.875, 0.5),
        (0.875, 0.125),
        (0.5, 0.125),
    ]


def test_the_same_last_answer_after_other_turns_is_another_answer() -> None:
    asked = (Message("assistant", "of whom ?"), Message("user", "of tom ."))
    first, second, third = Candidate("red", turns=asked), Candidate("red"), Candidate("blue", turns=asked)
    verdicts = [Comparison(PROMPT, first, third, 1.0, "judge"), Comparison(PROMPT, third, second, 1.0, "judge")]
    pairs = list(pairs_of_comparisons(verdicts))
    assert [tuple(answer.words for answer in pair.candidates) for pair in pairs] == [
        (first.words, third.words),
        (third.words, second.words),
    ]
    assert [pair.candidates[0].score for pair in pairs] == [0.75, pytest.approx(0.5)]
