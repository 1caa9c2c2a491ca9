"""Weighted logistic regression on soft labels, with an L1 penalty or without, for a handful of coefficients.

    minimise over w:   sum_n weight_n * cross_entropy(label_n, sigmoid(x_n . w)) + penalty * sum_k |w_k|

which is liblinear's L1 problem with C = 1 / penalty, no intercept, and each row entered as a win with weight `label`
and a loss with weight `1 - label`.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_PENALTIES = np.logspace(4.0, -4.0, 10)
"""1 / C for the ten C of scikit-learn's default grid, weakest fit first"""


class Fit(NamedTuple):
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
    for _ in range(100):
        p = sigmoid(x_NK @ w)
        gradient = x_NK.T @ (weights * (p - labels))
        if violation(gradient, w, penalty) <= 1e-9 * scale:
            return Fit(w, True, _separated(x_NK @ w, labels, weights))
        hessian = (x_NK.T * (weights * p * (1.0 - p))) @ x_NK + 1e-12 * scale * np.eye(len(w))
        step = _quadratic(hessian, gradient, w, penalty)
        now, size = objective(x_NK, labels, weights, w, penalty), 1.0
        while size > 1e-8 and objective(x_NK, labels, weights, w + size * step, penalty) > now:
            size /= 2.0
        w = w + size * step
        if np.abs(x_NK @ w).max() > 40.0 and _separated(x_NK @ w, labels, weights):
            return Fit(w, False, True)
        if np.abs(size * step).max() <= 1e-12 * (1.0 + np.abs(w).max()):
            break
    gradient = x_NK.T @ (weights * (sigmoid(x_NK @ w) - labels))
    done = violation(gradient, w, penalty) <= 1e-6 * scale
    return Fit(w, bool(done), _separated(x_NK @ w, labels, weights))


def objective(x_NK: Array, labels: Array, weights: Array, w: Array, penalty: float) -> float:
    """What `fit` minimises."""
    margins = x_NK @ w
    return float((weights * (np.logaddexp(0.0, margins) - labels * margins)).sum() + penalty * np.abs(w).sum())


def violation(gradient: Array, w: Array, penalty: float) -> float:
    """How far the subgradient nearest to 0 is from it: 0 at the optimum (the Karush-Kuhn-Tucker conditions)."""
    inner = np.maximum(np.abs(gradient) - penalty, 0.0)
    return float(np.where(w != 0.0, np.abs(gradient + penalty * np.sign(w)), inner).max())


def choose_penalty(x_NK: Array, labels: Array, folds: npt.NDArray[np.int64]) -> float:
    """The penalty of the grid with the least mean cross-entropy over the held-out folds; of equals the strongest."""
    losses = np.zeros(len(_PENALTIES))
    for fold in np.unique(folds):
        held = folds == fold
        w = np.zeros(x_NK.shape[1])
        for at, penalty in enumerate(_PENALTIES):
            w = fit(x_NK[~held], labels[~held], np.ones((~held).sum()), penalty, start=w).coefficients
            losses[at] += objective(x_NK[held], labels[held], np.ones(held.sum()), w, 0.0) / held.sum()
    return float(_PENALTIES[np.argmin(losses)])


def _quadratic(hessian: Array, gradient: Array, w: Array, penalty: float) -> Array:
    """The step that minimises the second-order model with the penalty: the best of all patterns of signs.

    Exact where coordinate descent crawls, which nearly constant length differences make it do.
    """
    if penalty == 0.0:
        return np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)
    target = hessian @ w - gradient
    found, least = np.zeros_like(w), 0.0
    for signs in product((0.0, -1.0, 1.0), repeat=len(w)):
        sign = np.array(signs)
        on = sign != 0.0
        point = np.zeros_like(w)
        point[on] = np.linalg.solve(hessian[np.ix_(on, on)], target[on] - penalty * sign[on])
        value = point @ hessian @ point / 2.0 - target @ point + penalty * np.abs(point).sum()
        if (point * sign >= 0.0).all() and value < least:
            found, least = point, value
    return found - w


def _separated(margins: Array, labels: Array, weights: Array) -> bool:
    used = weights > 0.0
    strict = ((labels == 0.0) | (labels == 1.0)) & ((2.0 * labels - 1.0) * margins > 0.0)
    return bool(strict[used].all())
