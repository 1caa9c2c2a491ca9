"""The tables of the studies, on made values."""

from __future__ import annotations

import pytest

from benchmarks.studies import Values, difference


def made_values(gains: dict[int, float]) -> Values:
    """Twenty prompts a seed, on which `new` exceeds `old` by the seed's gain, a little more or less in turn."""
    values: Values = {}
    for seed, gain in gains.items():
        for number in range(20):
            noise = 0.01 if number % 2 else -0.01
            values[seed, f"prompt {number}"] = {"old": 0.5, "new": 0.5 + gain + noise}
    return values


def test_a_gain_in_every_seed_is_shown() -> None:
    gain = difference(made_values({0: 0.1, 1: 0.3}), "new", "old")
    assert gain["mean"] == pytest.approx(0.2)
    assert gain["seeds"] == {0: pytest.approx(0.1), 1: pytest.approx(0.3)}
    assert gain["low"] > 0 and gain["shown"]
    assert gain["n"] == 40  # a prompt counts in each seed


def test_a_seed_of_the_other_sign_forbids_the_claim() -> None:
    gain = difference(made_values({0: 0.3, 1: -0.02}), "new", "old")
    assert gain["low"] > 0 and not gain["shown"]


def test_a_model_that_a_seed_lacks_is_compared_on_the_others() -> None:
    values = made_values({0: 0.1, 1: 0.3})
    for (seed, _), row in values.items():
        if seed == 1:
            del row["new"]
    assert difference(values, "new", "old")["seeds"] == {0: pytest.approx(0.1)}
