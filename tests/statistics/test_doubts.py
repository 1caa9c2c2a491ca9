from __future__ import annotations

from typing import Any

import pytest

from rayalign.statistics.doubts import reward_doubts

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
