"""Weighted logistic regression on soft labels, with or without an L1 penalty, for a handful of coefficients.

    minimise over w:   sum_n weight_n * cross_entropy(label_n, sigmoid(x_n . w)) + penalty * sum_k |w_k|

This is liblinear's L1 problem with C = 1 / penalty and no intercept, where each row is entered as a win with weight
`label` and as a loss with weight `1 - label`. Shapes: N rows, K coefficients.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_PENALTIES = np.logspace(4.0, -4.0, 10)
"""1 / C for the ten C of scikit-learn's default grid, the strongest penalty first"""
_ITERATIONS = 100


class Fit(NamedTuple):
    """The coefficients at the minimum, and how trustworthy they are."""

    coefficients: Array
    converged: bool
    separated: bool
    """every label is 0 or 1 and on its side of the plane: without a penalty there is no finite optimum"""


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def fit(x_NK: Array, labels: Array, weights: Array, penalty: float, *, start: Array | None = None) -> Fit:
    """The minimum by proximal Newton steps; coefficients of columns that are all zero stay 0.

    Args:
        labels: in [0, 1].
        weights: of each row, at least 0.
        penalty: at least 0.
    """
    w = np.zeros(x_NK.shape[1]) if start is None else start.copy()
    scale = max(1.0, float(np.abs(x_NK * weights[:, None]).sum(axis=0).max()))
    for _ in range(_ITERATIONS):
        p = sigmoid(x_NK @ w)
        gradient = x_NK.T @ (weights * (p - labels))
        if violation(gradient, w, penalty) <= 1e-9 * scale:
            return Fit(w, True, _separated(x_NK @ w, labels, weights))
        curvature = (x_NK.T * (weights * p * (1.0 - p))) @ x_NK
        direction = _quadratic(curvature + 1e-12 * scale * np.eye(len(w)), gradient, w, penalty)
        step = _halved(x_NK, labels, weights, w, direction, penalty)
        w = w + step
        if np.abs(x_NK @ w).max() > 40.0 and _separated(x_NK @ w, labels, weights):
            return Fit(w, False, True)
        if np.abs(step).max() <= 1e-12 * (1.0 + np.abs(w).max()):
            break
    residuals = weights * (sigmoid(x_NK @ w) - labels)
    converged = violation(x_NK.T @ residuals, w, penalty) <= 1e-6 * scale
    return Fit(w, bool(converged), _separated(x_NK @ w, labels, weights))


def objective(x_NK: Array, labels: Array, weights: Array, w: Array, penalty: float) -> float:
    """The function that `fit` minimises."""
    margins = x_NK @ w
    losses = weights * (np.logaddexp(0.0, margins) - labels * margins)
    return float(losses.sum() + penalty * np.abs(w).sum())


def violation(gradient: Array, w: Array, penalty: float) -> float:
    """Distance of 0 from the nearest subgradient: 0 at the optimum (the Karush-Kuhn-Tucker conditions)."""
    at_zero = np.maximum(np.abs(gradient) - penalty, 0.0)
    elsewhere = np.abs(gradient + penalty * np.sign(w))
    return float(np.where(w != 0.0, elsewhere, at_zero).max())


def choose_penalty(x_NK: Array, labels: Array, folds: npt.NDArray[np.int64]) -> float:
    """The penalty of the grid with the least mean cross-entropy over the held-out folds; of equals the strongest."""
    losses = np.zeros(len(_PENALTIES))
    for fold in np.unique(folds):
        test = folds == fold
        train = ~test
        ones_train, ones_test = np.ones(train.sum()), np.ones(test.sum())
        w = np.zeros(x_NK.shape[1])
        for index, penalty in enumerate(_PENALTIES):
            w = fit(x_NK[train], labels[train], ones_train, penalty, start=w).coefficients
            losses[index] += objective(x_NK[test], labels[test], ones_test, w, 0.0) / test.sum()
    return float(_PENALTIES[np.argmin(losses)])


def _halved(x_NK: Array, labels: Array, weights: Array, w: Array, direction: Array, penalty: float) -> Array:
    """The step along the direction, halved until the objective does not rise."""
    before, size = objective(x_NK, labels, weights, w, penalty), 1.0
    while size > 1e-8 and objective(x_NK, labels, weights, w + size * direction, penalty) > before:
        size /= 2.0
    return size * direction


def _quadratic(hessian: Array, gradient: Array, w: Array, penalty: float) -> Array:
    """The step that minimises the second-order model with the penalty: the best of all patterns of signs.

    It is exact where coordinate descent is slow, as with nearly constant length differences.
    """
    if penalty == 0.0:
        return np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)
    target = hessian @ w - gradient
    best_point, least = np.zeros_like(w), 0.0
    for signs in product((0.0, -1.0, 1.0), repeat=len(w)):
        sign = np.array(signs)
        active = sign != 0.0
        point = np.zeros_like(w)
        block = hessian[np.ix_(active, active)]
        point[active] = np.linalg.solve(block, target[active] - penalty * sign[active])
        value = point @ hessian @ point / 2.0 - target @ point + penalty * np.abs(point).sum()
        if (point * sign >= 0.0).all() and value < least:
            best_point, least = point, value
    return best_point - w


def _separated(margins: Array, labels: Array, weights: Array) -> bool:
    hard = (labels == 0.0) | (labels == 1.0)
    correct = (2.0 * labels - 1.0) * margins > 0.0
    return bool((hard & correct)[weights > 0.0].all())
