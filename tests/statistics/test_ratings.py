from __future__ import annotations

import math

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.statistics.ratings import bradley_terry

Match = tuple[str, str, float | None]


def test_two_models_by_hand() -> None:
    # a wins 3 of 4: odds of three to one, 400 log10(3) = 190.85 points apart
    matches: list[Match] = [("a", "b", 1.0), ("a", "b", 1.0), ("b", "a", 2.0), ("a", "b", 2.0)]
    best, other = bradley_terry(matches, resamples=10)
    assert (best.name, best.n, best.wins, other.wins) == ("a", 4, 3.0, 1.0)
    assert best.rating - other.rating == pytest.approx(400 * math.log10(3))
    assert best.rating + other.rating == pytest.approx(2000.0)
    anchored = {r.name: r.rating for r in bradley_terry(matches, baseline="b", resamples=10)}
    assert anchored == pytest.approx({"b": 1000.0, "a": 1000.0 + 400 * math.log10(3)})


def test_a_tie_is_half_a_win_and_a_probability_its_share() -> None:
    tied = bradley_terry([("a", "b", 1.5), ("a", "b", 0.0)], resamples=10)
    assert [r.rating for r in tied] == pytest.approx([1000.0, 1000.0])
    soft = bradley_terry([("a", "b", 1.25), ("a", "b", None)], resamples=10)
    assert (soft[0].name, soft[0].n) == ("a", 1)
    assert soft[0].rating - soft[1].rating == pytest.approx(400 * math.log10(3))


def drawn(n: int, seed: int = 0) -> tuple[list[Match], list[int]]:
    """Every pair of four models on n prompts; true ratings 200 points apart."""
    rng = np.random.default_rng(seed)
    names, matches, prompts = ["a", "b", "c", "d"], [], []
    for prompt in range(n):
        for i in range(4):
            for j in range(i + 1, 4):
                share = 1.0 / (1.0 + 10 ** (-200 * (j - i) / 400))
                matches.append((names[i], names[j], 1.0 if rng.random() < share else 2.0))
                prompts.append(prompt)
    return matches, prompts


def test_true_ratings_are_found_within_their_intervals() -> None:
    found = bradley_terry(*drawn(300), resamples=200)
    assert [r.name for r in found] == ["a", "b", "c", "d"]
    for rating, true in zip(found, (1300.0, 1100.0, 900.0, 700.0), strict=True):
        assert rating.low < true < rating.high
        assert 10.0 < rating.high - rating.low < 120.0


def test_the_fit_is_where_wins_are_expected_wins() -> None:
    matches, prompts = drawn(50)
    found = {r.name: r for r in bradley_terry(matches, prompts, resamples=1)}
    for name, rating in found.items():
        met = [b if a == name else a for a, b, _ in matches if name in (a, b)]
        expected = sum(1.0 / (1.0 + 10 ** ((found[m].rating - rating.rating) / 400)) for m in met)
        assert rating.wins == pytest.approx(expected, abs=1e-6)


def test_repeated_verdicts_on_a_prompt_are_no_news() -> None:
    matches, prompts = drawn(60)
    once = bradley_terry(matches, prompts, resamples=200)
    thrice = bradley_terry(matches * 3, prompts * 3, resamples=200)
    for a, b in zip(once, thrice, strict=True):
        assert (a.rating, a.low, a.high) == pytest.approx((b.rating, b.low, b.high), abs=1e-3)
        assert b.n == 3 * a.n


@pytest.mark.parametrize(
    ("matches", "told"),
    [
        ([("a", "b", 1.5), ("c", "d", 1.5)], "no verdict joins a, b with c, d"),
        ([("a", "b", 1.0)], "b never won from a"),
        ([("a", "b", 1.5), ("b", "c", 1.0)], "c never won from a, b"),
        ([("a", "b", None)], "no match has a verdict"),
        ([("a", "a", 1.5)], "a plays itself"),
        ([("a", "b", 7.0)], "between 1"),
    ],
)
def test_data_that_bounds_no_rating_says_so(matches: list[Match], told: str) -> None:
    with pytest.raises(InputError, match=told):
        bradley_terry(matches)


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(InputError, match="baseline 'z' has no verdict; known: a, b"):
        bradley_terry([("a", "b", 1.5)], baseline="z")


def test_bounds_are_absent_where_resamples_are_one_sided() -> None:
    found = bradley_terry([("a", "b", 1.0)] * 9 + [("a", "b", 2.0)])
    assert math.isfinite(found[0].rating) and math.isnan(found[0].low) and math.isnan(found[0].high)


def test_without_resamples_there_are_ratings_and_no_intervals() -> None:
    matches, _ = drawn(200)
    quick = bradley_terry(matches, resamples=0)
    assert [rating.rating for rating in quick] == [rating.rating for rating in bradley_terry(matches, resamples=20)]
    assert all(math.isnan(rating.low) and math.isnan(rating.high) for rating in quick)
