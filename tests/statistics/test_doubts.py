from __future__ import annotations

from typing import Any

import pytest

from rayalign.statistics.doubts import answer_doubts, reward_doubts

LONGER = "rm orders 80% of the held-out pairs correctly; always preferring the longer answer orders 80%."


def row(metric: str, mean: float, low: float, high: float = 1.0) -> dict[str, Any]:
    return {"name": "rm", "metric": metric, "mean": mean, "low": low, "high": high, "n": 50}


@pytest.mark.parametrize(
    ("accuracy", "low", "longer", "sentences"),
    [
        (0.8, 0.7, 0.6, []),
        (0.6, 0.5, 0.55, ["rm orders 60% of the held-out pairs as annotated (50% to 100%), which may be chance."]),
        (
            0.8,
            0.7,
            0.8,
            ["rm orders 80% of the held-out pairs correctly; always preferring the longer answer orders 80%."],
        ),
    ],
)
def test_a_model_at_chance_or_no_better_than_length_is_doubted(
    accuracy: float, low: float, longer: float, sentences: list[str]
) -> None:
    rows = [row("reward_accuracy", accuracy, low), row("reward_longer_accuracy", longer, longer - 0.1)]
    assert reward_doubts(rows) == ({"rm": sentences} if sentences else {})


def test_a_reversed_model_is_worse_than_chance() -> None:
    (sentence,) = reward_doubts([row("reward_accuracy", 0.2, 0.1, 0.3)])["rm"]
    assert sentence == "rm orders 20% of the held-out pairs as annotated (10% to 30%), which is worse than chance."


def test_other_figures_raise_no_doubt() -> None:
    assert reward_doubts([row("gold_utility", 0.2, 0.1), {**row("reward_accuracy", 0.0, 0.0), "mean": None}]) == {}


def answers(name: str, cut: float, tokens: float, repetition: float) -> list[dict[str, Any]]:
    values = {"answers_cut": cut, "answer_tokens": tokens, "answer_repetition": repetition}
    return [{"name": name, "metric": metric, "mean": value} for metric, value in values.items()]


def test_cut_collapsed_and_repetitive_answers_are_doubted() -> None:
    rows = [*answers("sft", 0.1, 18.0, 0.0), *answers("good", 0.5, 6.0, 0.3), *answers("bad", 0.8, 5.0, 0.6)]
    doubts = answer_doubts(rows)
    assert list(doubts) == ["bad"]
    assert [doubt.short for doubt in doubts["bad"]] == ["80% cut", "5.0 tokens long", "60% repeated"]
    assert doubts["bad"][1].sentence == "bad: the length of the answers collapsed to 5.0 tokens; sft has 18.0."
    assert answer_doubts([{"name": "sft", "metric": "gold_utility", "mean": 0.5}]) == {}
