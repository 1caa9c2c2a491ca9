"""Win rates at equal length: AlpacaEval's generalized linear model (Dubois et al. 2024, arXiv 2404.04475).

    logit P(the model wins on prompt i) = length * tanh(z_i) + difficulty * d_i + model

z_i is the baseline's length less the model's, in standard deviations of that difference over the run; d_i says how hard
the prompt is. The length-controlled win rate is the mean of the predictions at z = 0. The fit is that of
`length_controlled_noreg`: L1, strength by 5-fold cross-validation over prompts, no further baselines beside the run.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import bootstrap, bounds, numbered, rate_interval
from rayalign.statistics.logistic import choose_penalty, fit, sigmoid
from rayalign.statistics.winrate import shares

Array = npt.NDArray[np.float64]
_FOLDS = 5
_ALIKE = "no difficulty: its term is left out, and every prompt counts as equally hard"
_FEW = 50
"""prompts under which three coefficients say little"""


class Coefficients(NamedTuple):
    """Of the three terms; all zero for the baseline itself."""

    length: float = 0.0
    difficulty: float = 0.0
    model: float = 0.0


class LengthControlled(NamedTuple):
    """A win rate at equal length; rates in percent."""

    length_controlled_winrate: float
    lc_standard_error: float
    """of the predictions over the prompts, as AlpacaEval publishes it; `low` and `high` hold the fit's doubt too. NaN
    without difficulty, where all predictions are alike"""
    low: float
    high: float
    """95%, by bootstrap over prompts with the penalty and the difficulties held; NaN where nothing was fitted, or every
    coefficient is 0"""
    win_rate: float
    coefficients: Coefficients
    penalty: float
    """weight of the absolute coefficients, 1 / C in the usual notation"""
    warnings: tuple[str, ...]
    """what makes the figure weak; empty where nothing was found"""


def predict(coefficients: Coefficients, difficulty: Sequence[float]) -> tuple[float, float]:
    """The length-controlled win rate and its standard error in percent, by the difficulty of each prompt.

    Against another model of the table than its baseline: the differences of both models' coefficients.
    """
    return _summary(sigmoid(coefficients.difficulty * np.asarray(difficulty, dtype=np.float64) + coefficients.model))


def length_controlled(
    preferences: Sequence[float | None],
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    *,
    difficulty: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 200,
) -> LengthControlled:
    """Fit the model to one run and read it at equal length.

    Args:
        preferences: as `win_rate` takes them; a pair without a verdict is predicted but not fitted.
        lengths, baseline_lengths: characters of each answer.
        difficulty: of each prompt, given or by `joint_difficulty`; None leaves the term out, with a warning.
        clusters: each pair's prompt, where prompts repeat; folds and resamples keep them together.

    Raises:
        InputError: lists of different lengths, fewer than ten prompts with a verdict, a difficulty that is not finite.
    """
    won, gaps, hard = _columns(preferences, lengths, baseline_lengths, difficulty)
    names = range(len(won)) if clusters is None else clusters
    if len(names) != len(won):
        raise InputError(f"length control: {len(names)} clusters for {len(won)} preferences; name one for each")
    group, here = numbered(names)[0], ~np.isnan(won)
    n = len(np.unique(group[here]))
    if n < 2 * _FOLDS:
        raise InputError(f"length control: {n} prompts with a verdict are too few; it needs {2 * _FOLDS}")
    deviation = float(gaps.std(ddof=1))
    z = gaps / deviation if deviation > 0.0 else np.zeros_like(gaps)
    x_N3 = np.stack([np.tanh(z), hard, np.ones_like(z)], axis=1)
    weight = choose_penalty(x_N3[here], won[here], group[here] % _FOLDS)
    whole = fit(x_N3[here], won[here], np.ones(here.sum()), weight)
    at_zero = x_N3 * (0.0, 1.0, 1.0)

    def resampled(drawn_N: Array) -> float:
        found = fit(x_N3[here], won[here], drawn_N[here], weight, start=whole.coefficients)
        return 100.0 * float(np.average(sigmoid(at_zero @ found.coefficients), weights=drawn_N))

    rate, error = _summary(sigmoid(at_zero @ whole.coefficients))
    if difficulty is None:
        error = math.nan
    # else the held penalty leaves nothing in the resamples either; ties alone need no coefficient
    learned = bool(whole.coefficients.any() or (won[here] == 0.5).all())
    low, high = bounds(bootstrap(resampled, names, resamples=resamples)) if resamples and learned else (np.nan, np.nan)
    raw = 100.0 * float(won[here].mean())
    if resamples and learned and not np.ptp(won[here]) > 0.0:  # every resample says the same, which is no certainty
        _, low, high, _ = rate_interval((100.0 * won).tolist(), names, most=100.0)
    told = [
        *([_ALIKE] if difficulty is None else []),
        *_weaknesses(x_N3[here], won[here], z[here], n),
        *([] if whole.converged else ["the fit did not converge"]),
        *([] if learned else ["the penalty leaves every coefficient at 0: 50 is no finding, and has no interval"]),
        *far_from_raw(raw, rate),
    ]
    return LengthControlled(
        rate, error, low, high, raw, Coefficients(*map(float, whole.coefficients)), weight, tuple(told)
    )


def joint_difficulty(
    preferences_MP: Sequence[Sequence[float | None]],
    lengths_MP: Sequence[Sequence[int]],
    baseline_lengths_P: Sequence[int],
) -> list[float]:
    """How hard each prompt is, from several models' verdicts against one baseline on the same P prompts in one order.

    The model above with a length term and an offset for each model, difficulty's coefficient 1 for all, and a standard
    normal prior on the difficulties (the paper's joint fit, shrunk so that few models do). Higher: models fare better
    against the baseline. To control a model's own win rate, leave its verdicts out.

    Raises:
        InputError: no model, or rows of different lengths.
    """
    if not preferences_MP or len(preferences_MP) != len(lengths_MP):
        raise InputError("difficulty: needs the preferences and lengths of at least one model")
    columns = [_columns(p, n, baseline_lengths_P, None) for p, n in zip(preferences_MP, lengths_MP, strict=True)]
    won_MP, gaps_MP = np.stack([c[0] for c in columns]), np.stack([c[1] for c in columns])
    spread = gaps_MP.std(axis=1, ddof=1, keepdims=True)
    tanh_MP = np.tanh(gaps_MP / np.where(spread > 0.0, spread, 1.0))
    here_MP = ~np.isnan(won_MP)
    won_MP = np.where(here_MP, won_MP, 0.5)
    ab_M2, d_P = np.zeros((len(won_MP), 2)), np.zeros(won_MP.shape[1])
    for _ in range(100):
        step_M2, step_P = _joint_step(tanh_MP, won_MP, here_MP, ab_M2, d_P)
        ab_M2, d_P = ab_M2 + step_M2, d_P + step_P
        if max(np.abs(step_M2).max(), np.abs(step_P).max()) < 1e-8:
            break
    return [float(d) for d in d_P - d_P.mean()]


def far_from_raw(raw: float, controlled: float) -> list[str]:
    """A warning where the two rates [percent] are further apart than both 10 points and a quarter of the room."""
    below, above = max(10.0, raw / 4.0), max(10.0, (100.0 - raw) / 4.0)
    if raw - below <= controlled <= raw + above:
        return []
    return [f"{controlled:.1f} at equal length is far from the raw {raw:.1f}: the model of length may not hold here"]


def _columns(
    preferences: Sequence[float | None],
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    difficulty: Sequence[float] | None,
) -> tuple[Array, Array, Array]:
    won = shares(preferences)
    hard = np.zeros(len(won)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    sizes = {len(won), len(lengths), len(baseline_lengths), len(hard)}
    if len(sizes) != 1:
        raise InputError(f"length control: lists of different lengths: {sorted(sizes)}; each has one entry for a pair")
    if not np.isfinite(hard).all():
        raise InputError("length control: a difficulty is not finite")
    return won, np.asarray(baseline_lengths, dtype=np.float64) - np.asarray(lengths, dtype=np.float64), hard


def _summary(predictions: Array) -> tuple[float, float]:
    n = len(predictions)
    error = predictions.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return float(100.0 * predictions.mean()), float(100.0 * error)


def _weaknesses(x_N3: Array, won: Array, z: Array, n: int) -> list[str]:
    told = []
    if n < _FEW:
        told.append(f"only {n} prompts have a verdict; under {_FEW} the coefficients say little")
    if not np.ptp(z) > 0.0:
        told.append("the answers' lengths differ alike everywhere: nothing can be learned of length's part")
    elif min((z >= 0.0).mean(), (z <= 0.0).mean()) < 0.05:
        told.append("one side's answers are nearly always the longer: equal length is outside what was seen")
    hard_labels = bool(np.isin(won, (0.0, 1.0)).all())
    if hard_labels and fit(x_N3, won, np.ones(len(won)), 0.0).separated:
        told.append(
            "perfect separation: length and difficulty foretell every verdict, so only the penalty bounds the fit"
        )
    return told


def _joint_step(tanh_MP: Array, won_MP: Array, here_MP: Array, ab_M2: Array, d_P: Array) -> tuple[Array, Array]:
    """One Newton step of the joint fit; the difficulties' block of the Hessian is diagonal and is eliminated."""
    models = len(won_MP)
    p_MP = sigmoid(ab_M2[:, :1] * tanh_MP + ab_M2[:, 1:] + d_P)
    r_MP, s_MP = here_MP * (won_MP - p_MP), here_MP * p_MP * (1.0 - p_MP)
    x_2MP = np.stack([tanh_MP, np.ones_like(tanh_MP)])
    g_P, D_P = r_MP.sum(axis=0) - d_P, s_MP.sum(axis=0) + 1.0
    B_KP = (x_2MP * s_MP).transpose(1, 0, 2).reshape(2 * models, -1)
    g_K = (x_2MP * r_MP).sum(axis=2).T.ravel() - 1e-3 * ab_M2.ravel()
    A_KK = 1e-3 * np.eye(2 * models)
    for m in range(models):
        A_KK[2 * m : 2 * m + 2, 2 * m : 2 * m + 2] += (x_2MP[:, m] * s_MP[m]) @ x_2MP[:, m].T
    step_K = np.linalg.solve(A_KK - (B_KP / D_P) @ B_KP.T, g_K - B_KP @ (g_P / D_P))
    return step_K.reshape(models, 2), (g_P - step_K @ B_KP) / D_P
