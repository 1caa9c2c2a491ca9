"""Rules by hand cases."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rayalign.config import ExactRule, FormatRule, LengthRule, MajorityRule, NumericRule, RegexRule, RuleSection
from rayalign.scoring.rules import RuleScorer, apply, exact_match, final_number, has_form, length_band, matches
from rayalign.types import Group, Message, Prompt, Score, Segment, Trajectory


def prompt(**meta: str) -> Prompt:
    return Prompt("p", (Message("user", "how many?"),), meta)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### -3", "-3"),
        ("#### $18.00 in all", "18"),
        ("#### 18\nQ: and 5 more?", "18"),
        ("#### 18\n#### 19", "18"),
        ("it is 7 ####", None),
        ("12/60 = 0.2", "1/5"),
        ("so it is 3/4", "3/4"),
        ("10-3", "3"),
        ("10 - 3", "3"),
        ("x = -3.", "-3"),
        ("x = \u22123", "-3"),
        ("-$1,500.50", "-3001/2"),
        ("$-5", "-5"),
        ("half is .5", "1/2"),
        ("1, 2 and 1,23", "23"),
        ("12,3456", "3456"),
        ("3 of 5/0", "3"),
        ("20%", "20"),
        ("none", None),
        ("", None),
        ("7" * 400, "7" * 400),
        ("7" * 4400, None),
        ("1/" + "7" * 4400, None),
        ("it is 3. " + "7" * 4400, "3"),
        ("#### " + "7" * 4400, None),
    ],
)
def test_the_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Fraction(number))


def test_only_a_marked_number_counts_where_that_is_asked_for() -> None:
    assert final_number("it is 7", marked=True) is None
    assert final_number("it is 7\n#### 8", marked=True) == 8


def test_texts_match_but_for_white_space_case_and_punctuation() -> None:
    assert exact_match("  The\nParis ", "the paris")
    assert not exact_match("Paris", "paris", ignore_case=False)
    assert not exact_match("Paris.", "Paris")
    assert exact_match("Paris.", "Paris", ignore_punctuation=True)


def test_a_pattern_is_searched_or_matched_whole() -> None:
    assert matches("the end", r"e\w+")
    assert not matches("the end", r"e\w+", whole=True)


@pytest.mark.parametrize(("length", "score"), [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (6, 1.0), (8, 0.5), (11, 0.0)])
def test_a_length_falls_off_beside_its_band(length: int, score: float) -> None:
    assert length_band(length, 4, 6, margin=3) == score
    assert length_band(length, 4, 6) == float(4 <= length <= 6)


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("gsm8k", ["#### 72", "a\nb\n#### 1,000\n", "#### -2"], ["72", "a #### 72", "#### 72\nand", "#### x"]),
        (
            "think",
            ["<think>a\nb</think>\n4"],
            ["<think></think>4", "<think>a</think> ", "4", "<think>a<think></think>4"],
        ),
        ("json", ['{"a": 1}', "[1]"], ["{a: 1}", "", "[" * 3000, "7" * 4400]),
    ],
)
def test_a_form(form: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not has_form(text, form)] == []
    assert [text for text in bad if has_form(text, form)] == []


@pytest.mark.parametrize(
    ("rule", "answer", "score"),
    [
        (NumericRule(), "so #### 18.0", 1.0),
        (NumericRule(), "17", 0.0),
        (NumericRule(), "no idea", 0.0),
        (NumericRule(tolerance=0.1), "18.1", 1.0),
        (NumericRule(tolerance=0.1), "18.11", 0.0),
        (NumericRule(marked=True), "18", 0.0),
        (ExactRule(), "#### 18", 1.0),
        (ExactRule(reference="word"), "EIGHTEEN", 1.0),
        (ExactRule(reference="word", ignore_case=False), "EIGHTEEN", 0.0),
        (ExactRule(reference="word"), "eighteen!", 0.0),
        (ExactRule(reference="word", ignore_punctuation=True), "eighteen!", 1.0),
        (RegexRule(pattern=r"\d\d"), "18", 1.0),
        (RegexRule(pattern=r"\d\d"), "it is 18", 1.0),
        (RegexRule(pattern=r"\d\d", whole=True), "it is 18", 0.0),
        (LengthRule(low=2, high=2), "two words", 1.0),
        (LengthRule(low=2, high=2, unit="characters"), "two words", 0.0),
        (LengthRule(low=2, high=2, margin=3), "these are three", 0.75),
        (FormatRule(), "18", 0.0),
        (FormatRule(form="json"), "18", 1.0),
    ],
)
def test_a_rule_scores_an_answer(rule: RuleSection, answer: str, score: float) -> None:
    assert apply(rule, prompt(reference="#### 18", word="eighteen"), answer) == Score(score)


def test_a_prompt_without_reference_has_no_score() -> None:
    assert apply(ExactRule(), prompt(), "18") == Score(None, "prompt p has no 'reference' in its meta")
    assert apply(NumericRule(), prompt(reference="many"), "18").value is None
    assert apply(NumericRule(reference="answer"), prompt(answer="18"), "18") == Score(1.0)


def test_the_scorer_answers_in_order() -> None:
    answers = [Trajectory("g", i, (1,), (Segment(0, "policy", 0),), (0.0,), "stop", str(i)) for i in range(3)]
    group = Group("g", prompt(reference="1"), 0, tuple(answers))
    assert RuleScorer(NumericRule()).score([group]) == [(Score(0.0), Score(1.0), Score(0.0))]


def test_a_vote_is_the_share_of_candidates_with_the_same_final_number() -> None:
    texts = ["#### 4", "it is 4.0", "none", "5"]
    half, quarter = Score(0.5), Score(0.25)
    absent = Score(None, "the answer 'none' holds no final number")
    # three answers have a number, so the shares are of three
    third = Score(1 / 3)
    scores = RuleScorer(MajorityRule()).score([voters(*texts)])[0]
    assert scores == (Score(2 / 3), Score(2 / 3), absent, third)
    assert RuleScorer(MajorityRule(answer="text")).score([voters("A b", "a  B", "c", "d")])[0] == (
        half, half, quarter, quarter
    )  # fmt: skip


def test_a_vote_may_count_marked_numbers_alone() -> None:
    scores = RuleScorer(MajorityRule(marked=True)).score([voters("#### 4", "it is 4", "#### 5")])[0]
    assert [score.value for score in scores] == [0.5, None, 0.5]


def voters(*texts: str) -> Group:
    trajectories = []
    for index, text in enumerate(texts):
        trajectories.append(Trajectory("g", index, (1, 2), (Segment(0, "template"),), (), "stop", text))
    return Group("g", prompt(), 0, tuple(trajectories))
