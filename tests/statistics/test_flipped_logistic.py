from __future__ import annotations

import numpy as np
import pytest

from rayalign.statistics.flipped_logistic import fit_coefficients, fit_flip, win_probability, win_slope
from rayalign.statistics.logistic import fit, sigmoid


def test_half_of_a_flip_is_lost_on_either_side() -> None:
    # 0.1 + 0.8 / 2 at a logit of 0; 0.1 and 0.9 far out
    assert win_probability(np.array([0.0, -50.0, 50.0]), 0.1) == pytest.approx([0.5, 0.1, 0.9])
    assert win_slope(np.array([0.0]), 0.1) == pytest.approx([0.8 / 4])


def test_without_flips_it_is_the_plain_fit() -> None:
    rng = np.random.default_rng(0)
    x_NK = rng.normal(size=(400, 2))
    wins = (rng.random(400) < sigmoid(x_NK @ np.array([1.0, -0.5]))).astype(float)
    plain = fit(x_NK, wins, np.ones(400), 0.0).coefficients
    assert fit_coefficients(x_NK, wins, 0.0, np.zeros(2)).coefficients == pytest.approx(plain, abs=1e-3)


def test_a_flip_is_recovered_within_its_interval() -> None:
    rng = np.random.default_rng(1)
    x_NK = rng.normal(size=(4000, 1)) * 8.0
    wins = (rng.random(4000) < win_probability(x_NK @ np.array([1.0]), 0.2)).astype(float)
    fitted = fit_flip(x_NK, wins)
    assert fitted.low <= 0.2 <= fitted.high
    assert fitted.best.log_likelihood > fitted.unflipped.log_likelihood + 5.0
