from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.evaluation.length_files import read_coefficients
from rayalign.evaluation.tables import difficulty_from_others, read_annotations
from rayalign.statistics.length_control import (
    Coefficients,
    far_from_raw,
    joint_difficulty,
    length_controlled,
    predict,
)
from rayalign.statistics.logistic import sigmoid
from rayalign.statistics.winrate import win_rate_interval


def made(n: int = 600, seed: int = 0) -> tuple[list[float], list[int], list[int], list[float]]:
    """Verdicts of the model itself: length -1.5, difficulty 1, model 0.5; the model's answers are the longer."""
    rng = np.random.default_rng(seed)
    base, ours = rng.integers(200, 900, n), rng.integers(300, 1100, n)
    gap = (base - ours).astype(float)
    hard = rng.normal(size=n)
    share = sigmoid(-1.5 * np.tanh(gap / gap.std(ddof=1)) + hard + 0.5)
    return (1.0 + (rng.random(n) < share)).tolist(), ours.tolist(), base.tolist(), hard.tolist()


def test_published_coefficients_by_hand() -> None:
    # logits 0.5 and -0.5: shares 0.62246 and 0.37754, sample deviation 0.173184
    rate, error = predict(Coefficients(-1.0, 1.0, 0.0), [0.5, -0.5])
    assert rate == pytest.approx(50.0)
    assert error == pytest.approx(100 * 0.1731836 / math.sqrt(2), abs=1e-4)


def test_the_baseline_against_itself_is_50() -> None:
    assert predict(Coefficients(), [0.3, -2.0]) == (50.0, 0.0)
    found = length_controlled([1.5] * 100, [70] * 100, [70] * 100, difficulty=np.linspace(-1, 1, 100).tolist())
    spread = win_rate_interval([1.5] * 100)
    assert found[:5] == (50.0, 0.0, spread.low, spread.high, 50.0)
    assert found.coefficients == (0.0, 0.0, 0.0)


def test_a_fit_finds_the_rate_at_equal_length() -> None:
    preferences, ours, base, hard = made(4000)
    found = length_controlled(preferences, ours, base, difficulty=hard, resamples=100)
    true = 100.0 * float(sigmoid(np.array(hard) + 0.5).mean())
    assert found.low < true < found.high and found.high - found.low < 6.0
    assert found.win_rate > true + 4.0
    assert found.coefficients == pytest.approx((-1.5, 1.0, 0.5), abs=0.2)
    assert found.warnings == ()


def test_a_pair_without_verdict_is_predicted_but_not_fitted() -> None:
    preferences, ours, base, hard = made()
    holes = [None if i % 7 == 0 else p for i, p in enumerate(preferences)]
    found = length_controlled(holes, ours, base, difficulty=hard, resamples=0)
    kept = [i for i in range(len(holes)) if i % 7]
    assert found.win_rate == pytest.approx(100.0 * np.mean([preferences[i] - 1 for i in kept]))
    every = 100.0 * sigmoid(found.coefficients.difficulty * np.array(hard) + found.coefficients.model).mean()
    assert found.length_controlled_winrate == pytest.approx(every)
    assert math.isnan(found.low)


def test_the_place_of_a_pair_without_verdict_changes_nothing() -> None:
    preferences, lengths, baseline, difficulty = made(60)
    rates = set()
    for place in (0, 7, 33, 60):
        columns = [
            [*row[:place], extra, *row[place:]] for row, extra in ((preferences, None), (lengths, 40), (baseline, 50))
        ]
        hard = [*difficulty[:place], 0.0, *difficulty[place:]]
        controlled = length_controlled(*columns, difficulty=hard, resamples=0)
        rates.add((round(controlled.length_controlled_winrate, 9), controlled.penalty))
    assert len(rates) == 1


def test_repeated_prompts_do_not_narrow_the_interval() -> None:
    preferences, ours, base, hard = made(200)
    once = length_controlled(preferences, ours, base, difficulty=hard)
    names = [i for i in range(200) for _ in range(3)]
    thrice = [[x for x in column for _ in range(3)] for column in (preferences, ours, base, hard)]
    found = length_controlled(*thrice[:3], difficulty=thrice[3], clusters=names)
    # three times the rows weigh more against the penalty, hence not to the last digit
    assert found[0] == pytest.approx(once[0], abs=0.5)
    assert (found.low, found.high) == pytest.approx((once.low, once.high), abs=0.8)


def test_weak_fits_say_so() -> None:
    preferences, ours, base, hard = made()
    without = length_controlled(preferences, ours, base, resamples=0)
    assert "no difficulty" in without.warnings[0] and math.isnan(without.lc_standard_error)
    few = length_controlled(preferences[:30], ours[:30], base[:30], difficulty=hard[:30], resamples=0)
    assert any("only 30 prompts" in w for w in few.warnings)
    flat = length_controlled(preferences, [b + 9 for b in base], base, difficulty=hard, resamples=0)
    assert any("lengths differ alike" in w for w in flat.warnings)
    assert flat.length_controlled_winrate == pytest.approx(flat.win_rate, abs=0.5)
    longer = length_controlled(preferences, [b + o for b, o in zip(base, ours, strict=True)], base, resamples=0)
    assert any("nearly always the longer" in w for w in longer.warnings)


def test_a_fit_that_learned_nothing_says_so_in_the_place_of_an_interval() -> None:
    found = length_controlled([1.0, 2.0] * 30, [10 + i % 7 for i in range(60)], [10 + i % 5 for i in range(60)])
    assert (found.length_controlled_winrate, found.coefficients) == (50.0, (0.0, 0.0, 0.0))
    assert math.isnan(found.low) and any("leaves every coefficient at 0" in w for w in found.warnings)


def test_perfect_separation_is_said() -> None:
    _, ours, base, _ = made()
    by_length = [2.0 if o > b else 1.0 for o, b in zip(ours, base, strict=True)]
    found = length_controlled(by_length, ours, base, resamples=0)
    assert any("perfect separation" in w for w in found.warnings)
    always = length_controlled([2.0] * 600, ours, base, resamples=0)
    assert any("perfect separation" in w for w in always.warnings)


@pytest.mark.parametrize("verdict", [1.0, 1.5, 2.0])
def test_verdicts_all_alike_are_no_certainty(verdict: float) -> None:
    _, ours, base, _ = made()
    found = length_controlled([verdict] * 30, ours[:30], base[:30], resamples=20)
    spread = win_rate_interval([verdict] * 30)
    assert (found.low, found.high) == (spread.low, spread.high) and spread.high - spread.low > 10.0
    assert found.low - 0.01 <= found.length_controlled_winrate <= found.high + 0.01


def test_far_from_raw_is_ten_points_or_a_quarter_of_the_room() -> None:
    assert not far_from_raw(50.0, 62.5) and far_from_raw(50.0, 62.6) and far_from_raw(50.0, 37.4)
    assert not far_from_raw(20.0, 40.0) and far_from_raw(20.0, 40.1)
    assert not far_from_raw(20.0, 10.0) and far_from_raw(20.0, 9.9)
    assert not far_from_raw(95.0, 100.0) and far_from_raw(95.0, 71.2)


def test_input_that_cannot_be_fitted() -> None:
    with pytest.raises(InputError, match="9 prompts with a verdict are too few"):
        length_controlled([1.0] * 9 + [None] * 5, [1] * 14, [2] * 14)
    with pytest.raises(InputError, match="different lengths"):
        length_controlled([1.0] * 20, [1] * 19, [2] * 20)
    with pytest.raises(InputError, match="not finite"):
        length_controlled([1.0] * 20, [1] * 20, [2] * 20, difficulty=[math.nan] * 20)
    with pytest.raises(InputError, match="3 clusters for 20"):
        length_controlled([1.0] * 20, [1] * 20, [2] * 20, clusters=[1, 2, 3])
    with pytest.raises(InputError, match="at least one model"):
        joint_difficulty([], [], [])


def test_joint_difficulty_finds_what_models_share() -> None:
    rng = np.random.default_rng(5)
    true = rng.normal(size=300)
    base = rng.integers(100, 900, 300)
    lengths = rng.integers(100, 900, (8, 300))
    gap = base - lengths
    z = np.tanh(gap / gap.std(axis=1, ddof=1, keepdims=True))
    share = sigmoid(-1.0 * z + true + np.linspace(-1, 1, 8)[:, None])
    preferences = [[None if rng.random() < 0.05 else 1.0 + float(s) for s in row] for row in share]
    found = joint_difficulty(preferences, lengths.tolist(), base.tolist())
    assert np.corrcoef(found, true)[0, 1] > 0.98
    assert np.mean(found) == pytest.approx(0.0, abs=1e-12)


def test_joint_difficulty_is_at_its_optimum() -> None:
    preferences, ours, base, _ = made(60)
    d = np.array(joint_difficulty([preferences], [ours], base))
    gap = np.array(base) - np.array(ours)
    z = np.tanh(gap / gap.std(ddof=1))
    won = np.array(preferences) - 1.0

    def loss(d_P: np.ndarray, a: float, b: float) -> float:
        margin = a * z + b + d_P
        return float((np.logaddexp(0, margin) - won * margin).sum() + (d_P @ d_P) / 2 + 5e-4 * (a * a + b * b))

    a, b = min(
        ((a, b) for a in np.linspace(-6, 2, 81) for b in np.linspace(-2, 4, 61)), key=lambda ab: loss(d, ab[0], ab[1])
    )
    for step in np.random.default_rng(0).normal(0.0, 0.2, (30, 60)):
        assert loss(d + step, a, b) > loss(d, a, b)


def test_one_difficulty_explains_all_published_rates(test_data: Path) -> None:
    """The difficulties are not in the folder; normal ones, two numbers for eight rates, explain them already."""
    home = test_data / "alpaca_eval"
    table = read_coefficients(home / "length_controlled_weights.csv")
    with (home / "leaderboard_alpaca_eval_2.csv").open() as file:
        published = {r[""]: float(r["length_controlled_winrate"]) for r in csv.DictReader(file)}
    normal = np.array([NormalDist().inv_cdf((i + 0.5) / 805) for i in range(805)])
    found = {model: predict(table[model], (1.55 * normal - 0.1).tolist())[0] for model in table}
    assert published.keys() == found.keys()
    assert found == pytest.approx(published, abs=0.6)


def test_one_model_told_to_be_brief_or_wordy_comes_nearer_together(test_data: Path) -> None:
    """Apart as AlpacaEval measures it: the standard deviation of the three rates over their mean."""
    home = test_data / "alpaca_eval"
    folders = sorted(p.parent.parent for p in home.glob("*/weighted*/annotations.json.gz"))
    runs = [read_annotations(f / "weighted_alpaca_eval_gpt4_turbo" / "annotations.json.gz")[0] for f in folders]
    raw, fitted, plain = [], [], []
    for run in runs:
        if not run.name.startswith("gpt-3.5-turbo-1106"):
            continue
        lengths = run.lengths(2), run.lengths(1)
        hard = difficulty_from_others(run, runs)
        found = length_controlled(run.preferences, *lengths, difficulty=hard, resamples=0)
        raw.append(found.win_rate)
        fitted.append(found.length_controlled_winrate)
        plain.append(length_controlled(run.preferences, *lengths, resamples=0).length_controlled_winrate)
    assert len(raw) == 3
    apart = [float(np.std(rates) / np.mean(rates)) for rates in (raw, fitted, plain)]
    assert apart[0] == pytest.approx(0.2274, abs=1e-4)
    assert apart[1] < 0.6 * apart[0]
    assert apart[2] < 0.2 * apart[0]
    # without the difficulty also in points; with it, as published, not
    assert np.ptp(plain) < 0.6 * np.ptp(raw)
