"""Best-of-n against its bounds: the estimate by hand, and worlds in which the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.statistics.best_of_n import best_of_n_kl, best_of_n_report, best_of_n_win_rate, estimated_kl

NAN = math.nan
PROMPTS = 400


def test_bounds_by_hand() -> None:
    assert (best_of_n_kl(1), best_of_n_win_rate(1)) == (0.0, 0.5)
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    assert best_of_n_win_rate(4) == 0.8
    with pytest.raises(InputError, match="n must be 1 or more, not 0"):
        best_of_n_kl(0)


def test_the_estimate_by_hand() -> None:
    # of two draws the better score is chosen in 3 of 4 cases, the other in 1 of 4
    assert estimated_kl([1.0, 2.0], 2) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    # shares 3/4 and 1/4, chosen 9/16 and 7/16
    assert estimated_kl([5, 5, 5, 9], 2) == pytest.approx(9 / 16 * math.log(0.75) + 7 / 16 * math.log(1.75))
    assert estimated_kl([3.0, 3.0, 3.0], 8) == 0.0
    assert estimated_kl([None, 1.0, NAN, 2.0], 2) == estimated_kl([1.0, 2.0], 2)
    assert math.isnan(estimated_kl([None, NAN], 2))
    assert estimated_kl([1.0, 4.0, 2.0], 1) == pytest.approx(0.0)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_the_estimate_comes_near_the_bound_and_never_above(n: int) -> None:
    estimate = estimated_kl(list(range(4000)), n)
    assert 0.99 * best_of_n_kl(n) < estimate <= best_of_n_kl(n)
    assert estimated_kl(list(range(n)), n) < estimate  # few draws miss answers


def test_without_ties_the_estimate_is_the_same_for_any_scores() -> None:
    rng = np.random.default_rng(0)
    estimates = [estimated_kl(rng.normal(size=16).tolist(), 16) for _ in range(20)]
    assert estimates == pytest.approx([1.794036] * 20, abs=1e-6)
    assert best_of_n_kl(16) == pytest.approx(1.835089, abs=1e-6)


def test_frequencies_of_many_choices_have_the_estimated_divergence() -> None:
    """The divergence is measured here from answers that were chosen, without the formula of the estimate."""
    rng = np.random.default_rng(0)
    probabilities_A, n, choices = np.array([0.4, 0.3, 0.2, 0.1]), 3, 200_000
    drawn_CN = rng.choice(4, size=(choices, n), p=probabilities_A)
    frequencies_A = np.bincount(drawn_CN.max(axis=1), minlength=4) / choices
    measured = float((frequencies_A * np.log(frequencies_A / probabilities_A)).sum())
    scores = [0.0] * 4 + [1.0] * 3 + [2.0] * 2 + [3.0]
    assert measured == pytest.approx(estimated_kl(scores, n), abs=0.003)
    assert measured < best_of_n_kl(n)


def run(n: int, judge_noise: float = 0.0, shared: bool = False) -> tuple[list[list[float]], list[float]]:
    """Scores of each prompt's candidates, and whether the chosen one beats one of the reference: 2, else 1.

    A shared draw of the reference is one of the candidates.
    """
    rng = np.random.default_rng(0)
    scores_PN = rng.normal(size=(PROMPTS, n))
    reference_P = scores_PN[:, 0] if shared else rng.normal(size=PROMPTS)
    gaps_P = scores_PN.max(axis=1) - reference_P + judge_noise * rng.normal(size=PROMPTS)
    return scores_PN.tolist(), (1.5 + 0.5 * np.sign(gaps_P)).tolist()


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_an_honest_run_stays_within_both_bounds(n: int) -> None:
    report = best_of_n_report(n, *run(n))
    assert not report.is_suspect
    assert report.win_rate is not None
    assert report.win_rate.low <= report.win_rate_bound <= report.win_rate.high  # the judge scores, and nothing ties
    noisy = best_of_n_report(n, *run(n, judge_noise=2.0)).win_rate
    assert noisy is not None and noisy.mean <= report.win_rate_bound


def test_a_reference_that_is_among_the_candidates_is_found_out() -> None:
    report = best_of_n_report(2, *run(2, shared=True))
    assert report.is_suspect  # 3/4 with ties as halves, where 2/3 is the most


def test_without_verdicts_only_the_divergence_is_measured() -> None:
    report = best_of_n_report(2, [[1.0, 2.0], [3.0, 3.0]])
    assert report.win_rate is None
    assert report.kl.mean == pytest.approx(estimated_kl([1.0, 2.0], 2) / 2)
    assert not report.is_suspect
