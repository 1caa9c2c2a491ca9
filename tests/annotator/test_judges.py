from __future__ import annotations

import math

import pytest

from rayalign.annotator import RubricJudge
from rayalign.config import JudgeConfig
from rayalign.types import Message, Prompt


def utility(prompt: Prompt, answer: str) -> float:
    """A stand-in for the gold utility: the share of capital letters."""
    return sum(c.isupper() for c in answer) / max(1, len(answer))


def pairs(first: str, second: str, count: int) -> list[tuple[Prompt, str, str]]:
    return [(Prompt(f"p{i}", (Message("user", "q"),)), first, second) for i in range(count)]


def share_first(config: JudgeConfig, first: str, second: str) -> float:
    verdicts = RubricJudge(config, utility).compare(pairs(first, second, 4000), seed=1)
    assert set(verdicts) <= {1.0, 2.0}
    return verdicts.count(1.0) / len(verdicts)


def test_verdicts_follow_bradley_terry() -> None:
    # utilities 0.5 and 0.25 at temperature 0.25: sigmoid(1)
    assert share_first(JudgeConfig(temperature=0.25), "Ab", "Abcd") == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert share_first(JudgeConfig(temperature=0.001), "Ab", "Abcd") == 1.0
    assert share_first(JudgeConfig(temperature=0.001), "Abcd", "Ab") == 0.0


def test_flips_turn_their_share_of_verdicts() -> None:
    assert share_first(JudgeConfig(temperature=0.001, flip=0.25), "Ab", "Abcd") == pytest.approx(0.75, abs=0.03)


def test_length_bias_pays_for_each_word() -> None:
    # four more words at 0.2 outweigh a utility of 0.5 against 0.1
    assert share_first(JudgeConfig(temperature=0.001, length_bias=0.2), "Ab", "1A 2 3 4 5") == 0.0
    assert share_first(JudgeConfig(temperature=0.001, length_bias=0.0), "Ab", "1A 2 3 4 5") == 1.0


def test_swapping_mirrors_and_order_changes_nothing() -> None:
    judge = RubricJudge(JudgeConfig(temperature=1.0, flip=0.2), utility)
    forward = judge.compare(pairs("Ab", "Abcd", 200), seed=3)
    swapped = judge.compare(pairs("Abcd", "Ab", 200), seed=3)
    assert all(a is not None and b is not None and a + b == 3.0 for a, b in zip(forward, swapped, strict=True))
    assert judge.compare(pairs("Ab", "Abcd", 200)[::-1], seed=3) == forward[::-1]
    assert judge.compare(pairs("Ab", "Abcd", 200), seed=4) != forward
    assert set(forward) == {1.0, 2.0}


def test_equal_answers_tie() -> None:
    assert RubricJudge(JudgeConfig(), utility).compare(pairs("Ab", "Ab", 2), seed=0) == [1.5, 1.5]


def test_the_gold_utility_is_the_default() -> None:
    from rayalign.data.paddock import gold, prompts

    prompt = prompts(0, "test", 1)[0]
    judge = RubricJudge(JudgeConfig(temperature=0.001))
    assert judge.compare([(prompt, gold.oracle(prompt), "nothing")], seed=0) == [1.0]
