from __future__ import annotations

import math

import numpy as np
import pytest

from rayalign.statistics.logistic import choose_penalty, fit, objective, sigmoid, violation


def data(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=(n, 2)), np.ones(n)])
    labels = np.clip(sigmoid(x @ (1.0, -0.5, 0.3)) + rng.normal(0.0, 0.1, n), 0.0, 1.0)
    return x, labels, rng.random(n) + 0.5


def test_a_constant_alone_is_the_log_odds() -> None:
    found = fit(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]), np.ones(4), 0.0)
    assert found.converged and not found.separated
    assert found.coefficients[0] == pytest.approx(math.log(3.0), abs=1e-9)
    # with a penalty of 1 the sum of the residuals is 1: 3 - 4p = 1
    assert sigmoid(fit(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]), np.ones(4), 1.0).coefficients) == (
        pytest.approx([0.5], abs=1e-9)
    )


@pytest.mark.parametrize("penalty", [0.0, 1e-3, 1.0, 20.0, 60.0, 1e4])
def test_the_subgradient_holds_at_the_optimum(penalty: float) -> None:
    x, labels, weights = data()
    w = fit(x, labels, weights, penalty).coefficients
    gradient = x.T @ (weights * (sigmoid(x @ w) - labels))
    used = w != 0.0
    assert gradient[used] == pytest.approx(-penalty * np.sign(w[used]), abs=1e-5)
    assert (np.abs(gradient[~used]) <= penalty + 1e-5).all()
    assert violation(gradient, w, penalty) < 1e-5
    best = objective(x, labels, weights, w, penalty)
    for step in np.random.default_rng(1).normal(0.0, 1e-2, (50, 3)):
        assert objective(x, labels, weights, w + step, penalty) > best


def test_a_strong_penalty_takes_coefficients_out_one_by_one() -> None:
    x, labels, weights = data()
    left = [int((fit(x, labels, weights, p).coefficients != 0.0).sum()) for p in (1e-3, 30.0, 1e4)]
    assert left[0] == 3 and left[2] == 0 and 0 < left[1] < 3


def test_a_weight_is_a_repetition_and_a_soft_label_is_two_rows() -> None:
    x, labels, _ = data(50)
    twice = fit(np.vstack([x, x]), np.r_[labels, labels], np.ones(100), 2.0).coefficients
    assert fit(x, labels, np.full(50, 2.0), 2.0).coefficients == pytest.approx(twice, abs=1e-7)
    split = fit(np.vstack([x, x]), np.r_[np.ones(50), np.zeros(50)], np.r_[labels, 1.0 - labels], 2.0).coefficients
    assert fit(x, labels, np.ones(50), 2.0).coefficients == pytest.approx(split, abs=1e-7)


def test_separated_labels_are_said_to_be() -> None:
    x = np.column_stack([np.linspace(-1.0, 1.0, 20), np.ones(20)])
    labels = (x[:, 0] > 0.0).astype(float)
    free = fit(x, labels, np.ones(20), 0.0)
    assert free.separated and not free.converged
    assert fit(x, labels, np.ones(20), 1.0).converged
    labels[3] = 1.0
    assert not fit(x, labels, np.ones(20), 0.0).separated


def test_a_column_of_zeros_stays_out() -> None:
    x, labels, weights = data()
    x[:, 1] = 0.0
    for penalty in (0.0, 1.0):
        assert fit(x, labels, weights, penalty).coefficients[1] == 0.0


def test_cross_validation_weighs_fit_against_noise() -> None:
    x, labels, _ = data()
    folds = np.arange(len(x)) % 5
    assert choose_penalty(x, labels, folds) < 10.0
    noise = np.random.default_rng(3).random(len(x)).round()
    assert choose_penalty(x, noise, folds) > choose_penalty(x, labels, folds)
