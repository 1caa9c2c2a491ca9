"""Logistic regression on labels of which an unknown share is flipped, by maximum likelihood.

    P(win) = flip + (1 - 2 flip) sigmoid(x . w)

Shapes: N labels, K coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.statistics.intervals import Z95
from rayalign.statistics.logistic import sigmoid

Array = npt.NDArray[np.float64]
RIDGE = 1e-3
"""keeps a coefficient from going far above 30 over its column's largest entry, which no labels can show"""


class Profile(NamedTuple):
    """The best fit with a fixed flip."""

    flip: float
    log_likelihood: float
    coefficients: Array


class FlipFit(NamedTuple):
    """The most likely flip with its 95% profile interval, and the fit without flips."""

    best: Profile
    unflipped: Profile
    low: float
    high: float


def fit_flip(x_NK: Array, wins: Array) -> FlipFit:
    """The best of a grid of flips from 0 to 0.49: steps of 0.02, then of 0.001 around the best of them."""
    coarse = profiles(x_NK, wins, np.arange(0.0, 0.5, 0.02).tolist())
    middle = _best(coarse).flip
    flips = np.arange(max(0.0, middle - 0.02), min(0.49, middle + 0.02), 0.001)
    fits = coarse + profiles(x_NK, wins, flips.tolist())
    best = _best(fits)
    threshold = best.log_likelihood - Z95 * Z95 / 2
    plausible = [fit.flip for fit in fits if fit.log_likelihood > threshold]
    return FlipFit(best, coarse[0], min(plausible), max(plausible))


def profiles(x_NK: Array, wins: Array, flips: Sequence[float]) -> list[Profile]:
    """The best fit for each flip; each starts at the coefficients of the one before."""
    fits: list[Profile] = []
    w: Array = np.zeros(x_NK.shape[1])
    for flip in flips:
        fits.append(fit_coefficients(x_NK, wins, flip, w))
        w = fits[-1].coefficients
    return fits


def fit_coefficients(x_NK: Array, wins: Array, flip: float, start: Array) -> Profile:
    """Fisher scoring with halved steps for a fixed flip."""
    scale = np.maximum(np.abs(x_NK).max(axis=0), 1e-300)
    scaled_NK, w = x_NK / scale, start * scale
    value = _penalised(scaled_NK, wins, flip, w)
    for _ in range(60):
        step = _fisher_step(scaled_NK, wins, flip, w)
        proposed = _penalised(scaled_NK, wins, flip, w + step)
        while proposed < value and np.abs(step).max() > 1e-9:
            step = step / 2
            proposed = _penalised(scaled_NK, wins, flip, w + step)
        gain = proposed - value
        value, w = proposed, w + step
        if gain < 1e-9 * (1 + abs(value)):
            break
    return Profile(flip, value, w / scale)


def win_probability(logits: Array, flip: float) -> Array:
    """P(win) of each row, kept away from 0 and 1."""
    return np.clip(flip + (1 - 2 * flip) * sigmoid(logits), 1e-12, 1 - 1e-12)


def win_slope(logits: Array, flip: float) -> Array:
    """The derivative of P(win) by the logit."""
    s = sigmoid(logits)
    return (1 - 2 * flip) * s * (1 - s)


def _best(fits: Sequence[Profile]) -> Profile:
    return max(fits, key=lambda fit: fit.log_likelihood)


def _penalised(x_NK: Array, wins: Array, flip: float, w: Array) -> float:
    p = win_probability(x_NK @ w, flip)
    log_likelihoods = wins * np.log(p) + (1 - wins) * np.log(1 - p)
    return float(log_likelihoods.sum() - 0.5 * RIDGE * (w @ w))


def _fisher_step(x_NK: Array, wins: Array, flip: float, w: Array) -> Array:
    logits = x_NK @ w
    p, slope = win_probability(logits, flip), win_slope(logits, flip)
    weight = slope / (p * (1 - p))
    weighted_NK = x_NK * (weight * slope)[:, None]
    information = weighted_NK.T @ x_NK + RIDGE * np.eye(len(w))
    gradient = x_NK.T @ (weight * (wins - p)) - RIDGE * w
    return np.asarray(np.linalg.solve(information, gradient), dtype=np.float64)
