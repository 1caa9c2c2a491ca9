from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.evaluation.scaling_laws import best_of_n_values, fit


def test_best_of_n_is_the_mean_over_all_subsets() -> None:
    proxy, values = [[0.3, 0.1, 0.4, 0.2]], [[1.0, 10.0, 100.0, 1000.0]]
    means = []
    for n in (1, 2, 3, 4):
        winners = [max(subset, key=lambda i: proxy[0][i]) for subset in itertools.combinations(range(4), n)]
        means.append(np.mean([values[0][i] for i in winners]))
    assert best_of_n_values(proxy, values, [1, 2, 3, 4])[:, 0] == pytest.approx(means)


def test_best_of_n_refuses_sizes_and_absent_scores() -> None:
    with pytest.raises(InputError, match="from 1 to the 2 candidates"):
        best_of_n_values([[0.0, 1.0]], [[0.0, 1.0]], [3])
    with pytest.raises(InputError, match="has no score"):
        best_of_n_values([[0.0, math.nan]], [[0.0, 1.0]], [1])
    with pytest.raises(InputError, match="same prompts"):
        best_of_n_values([[0.0]], [[0.0, 1.0]], [1])


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_a_law_without_noise_is_recovered(form: str) -> None:
    distances = [0.0, 0.5, 1.0, 1.5, 2.0]
    gains = [0.0]
    for d in distances[1:]:
        gains.append(d * (0.4 - 0.1 * (d if form == "best_of_n" else math.log(d))))
    law = fit(form, distances, np.repeat(np.array(gains)[:, None], 20, axis=1))  # type: ignore[arg-type]
    assert law.alpha == pytest.approx((0.4, 0.4, 0.4, 20))
    assert law.beta == pytest.approx((0.1, 0.1, 0.1, 20))
    assert law.r_squared == pytest.approx(1.0)
    assert law.gain(1.5) == pytest.approx(gains[3])


def test_intervals_cover_the_truth_as_often_as_they_claim() -> None:
    distances = np.linspace(0.3, 2.5, 8)
    covered = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        gains = (distances * (0.4 - 0.1 * distances))[:, None] + generator.normal(0.0, 0.3, (8, 100))
        gains[2, :50] = math.nan
        law = fit("best_of_n", distances.tolist(), gains)
        covered += law.alpha.low < 0.4 < law.alpha.high
    assert 34 <= covered < 40


def test_too_few_distances_are_refused() -> None:
    with pytest.raises(InputError, match="needs 3 distances above 0, got 2"):
        fit("rl", [0.0, 1.0, 2.0], np.zeros((3, 4)))
    with pytest.raises(InputError, match="one row of gains"):
        fit("rl", [1.0, 2.0], np.zeros((3, 4)))
