"""Win rates at equal length: AlpacaEval's generalized linear model (Dubois et al. 2024, arXiv 2404.04475).

    logit P(the model wins on prompt i) = length * tanh(z_i) + difficulty * d_i + model

z_i is the baseline's length less the model's, in standard deviations of that difference over the run; d_i is the
difficulty of the prompt. The length-controlled win rate is the mean of the predictions at z = 0. The fit is that of
`length_controlled_noreg`: an L1 penalty whose strength comes from 5-fold cross-validation over prompts, and no further
baselines beside the run. Shapes: N pairs, P prompts, M models, K coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import bootstrap, bounds, numbered, rate_interval
from rayalign.statistics.logistic import Fit, choose_penalty, fit, sigmoid
from rayalign.statistics.winrate import shares

Array = npt.NDArray[np.float64]
_FOLDS = 5
_FEW = 50
"""prompts under which three coefficients are uncertain"""
_RIDGE = 1e-3
"""on the coefficients of the joint fit"""


class Coefficients(NamedTuple):
    """Of the three terms; all zero for the baseline itself."""

    length: float = 0.0
    difficulty: float = 0.0
    model: float = 0.0


class LengthControlled(NamedTuple):
    """A win rate at equal length; rates are in percent."""

    length_controlled_winrate: float
    lc_standard_error: float
    """of the predictions over the prompts, as AlpacaEval publishes it; `low` and `high` include the uncertainty of the
    fit too. NaN without difficulty, where all predictions are equal"""
    low: float
    high: float
    """95%, by bootstrap over prompts with fixed penalty and difficulties; NaN where nothing was fitted, or where every
    coefficient is 0"""
    win_rate: float
    coefficients: Coefficients
    penalty: float
    """weight of the absolute coefficients, 1 / C in the usual notation"""
    warnings: tuple[str, ...]
    """reasons to distrust the figure"""


def predict(coefficients: Coefficients, difficulty: Sequence[float]) -> tuple[float, float]:
    """The length-controlled win rate and its standard error in percent, by the difficulty of each prompt.

    Against another model of the table than its baseline, pass the differences of both models' coefficients.
    """
    logits = coefficients.difficulty * np.asarray(difficulty, dtype=np.float64) + coefficients.model
    return _mean_and_error(sigmoid(logits))


def length_controlled(
    preferences: Sequence[float | None],
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    *,
    difficulty: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 200,
) -> LengthControlled:
    """Fit the model to one run and return its win rate at equal length.

    Args:
        preferences: as `win_rate` takes them; a pair without a verdict is predicted but not fitted.
        lengths, baseline_lengths: characters of each answer.
        difficulty: of each prompt, from outside or by `joint_difficulty`; None leaves the term out, with a warning.
        clusters: each pair's prompt, where prompts repeat; folds and resamples keep them together.

    Raises:
        InputError: lists of different lengths, fewer than ten prompts with a verdict, a difficulty that is not finite.
    """
    run = _run(preferences, lengths, baseline_lengths, difficulty, clusters)
    # numbered among the judged alone, so that it does not matter where rows without a verdict stand
    fold_N, _ = numbered(run.cluster_N[run.judged].tolist())
    penalty = choose_penalty(run.x_N3[run.judged], run.verdicts, fold_N % _FOLDS)
    whole = run.fitted(np.ones(len(run.share_N)), penalty)
    rate, error = _mean_and_error(run.at_equal_length(whole))
    if difficulty is None:
        error = math.nan
    raw = 100.0 * float(run.verdicts.mean())
    # the fixed penalty leaves nothing in the resamples either; ties alone need no coefficient
    learned = bool(whole.coefficients.any() or (run.verdicts == 0.5).all())
    low, high = _bounds(run, whole, penalty, resamples) if resamples and learned else (math.nan, math.nan)
    warnings = _warnings(run, whole, has_difficulty=difficulty is not None, learned=learned)
    warnings += far_from_raw(raw, rate)
    coefficients = Coefficients(*whole.coefficients.tolist())
    return LengthControlled(rate, error, low, high, raw, coefficients, penalty, tuple(warnings))


def joint_difficulty(
    preferences_MP: Sequence[Sequence[float | None]],
    lengths_MP: Sequence[Sequence[int]],
    baseline_lengths_P: Sequence[int],
) -> list[float]:
    """The difficulty of each prompt, from several models' verdicts against one baseline on the same prompts in order.

    The model above has a length term and an offset for each model, a difficulty coefficient of 1 for all, and a
    standard normal prior on the difficulties (the paper's joint fit, with shrinkage so that few models are enough). On
    a prompt of higher difficulty, models do better against the baseline. To control a model's own win rate, leave its
    verdicts out.

    Raises:
        InputError: no model, or rows of different lengths.
    """
    if not preferences_MP or len(preferences_MP) != len(lengths_MP):
        raise InputError("difficulty: needs the preferences and lengths of at least one model")
    rows, gap_rows = [], []
    for preferences, lengths in zip(preferences_MP, lengths_MP, strict=True):
        won, gaps, _ = _columns(preferences, lengths, baseline_lengths_P, None)
        rows.append(won)
        gap_rows.append(gaps)
    won_MP, gaps_MP = np.stack(rows), np.stack(gap_rows)
    deviation_M1 = gaps_MP.std(axis=1, ddof=1, keepdims=True)
    tanh_MP = np.tanh(gaps_MP / np.where(deviation_M1 > 0.0, deviation_M1, 1.0))
    judged_MP = ~np.isnan(won_MP)
    won_MP = np.where(judged_MP, won_MP, 0.5)
    terms_M2, difficulty_P = np.zeros((len(won_MP), 2)), np.zeros(won_MP.shape[1])
    for _ in range(100):
        step_M2, step_P = _joint_step(tanh_MP, won_MP, judged_MP, terms_M2, difficulty_P)
        terms_M2, difficulty_P = terms_M2 + step_M2, difficulty_P + step_P
        if max(np.abs(step_M2).max(), np.abs(step_P).max()) < 1e-8:
            break
    centred_P: list[float] = (difficulty_P - difficulty_P.mean()).tolist()
    return centred_P


def far_from_raw(raw: float, controlled: float) -> list[str]:
    """A warning where the two rates [percent] are further apart than both 10 points and a quarter of the room."""
    below, above = max(10.0, raw / 4.0), max(10.0, (100.0 - raw) / 4.0)
    if raw - below <= controlled <= raw + above:
        return []
    return [f"{controlled:.1f} at equal length is far from the raw {raw:.1f}: the model of length may not hold here"]


@dataclass(frozen=True, slots=True)
class _Run:
    """One model's pairs as rows of the regression."""

    names: Sequence[Hashable]
    """cluster of each pair"""
    cluster_N: npt.NDArray[np.int64]
    share_N: Array
    """the model's share of the win; NaN without a verdict"""
    judged: npt.NDArray[np.bool_]
    z_N: Array
    x_N3: Array
    """tanh(z), difficulty, 1"""

    @property
    def verdicts(self) -> Array:
        return self.share_N[self.judged]

    @property
    def judged_prompts(self) -> int:
        return len(np.unique(self.cluster_N[self.judged]))

    def fitted(self, weights_N: Array, penalty: float, start: Array | None = None) -> Fit:
        return fit(self.x_N3[self.judged], self.verdicts, weights_N[self.judged], penalty, start=start)

    def at_equal_length(self, model: Fit) -> Array:
        """Predictions for all pairs at z = 0."""
        return sigmoid((self.x_N3 * (0.0, 1.0, 1.0)) @ model.coefficients)


def _run(
    preferences: Sequence[float | None],
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    difficulty: Sequence[float] | None,
    clusters: Sequence[Hashable] | None,
) -> _Run:
    share_N, gaps_N, difficulty_N = _columns(preferences, lengths, baseline_lengths, difficulty)
    names = range(len(share_N)) if clusters is None else clusters
    if len(names) != len(share_N):
        raise InputError(f"length control: {len(names)} clusters for {len(share_N)} preferences; name one for each")
    cluster_N, _ = numbered(names)
    judged = ~np.isnan(share_N)
    prompts = len(np.unique(cluster_N[judged]))
    if prompts < 2 * _FOLDS:
        raise InputError(f"length control: {prompts} prompts with a verdict are too few; it needs {2 * _FOLDS}")
    deviation = float(gaps_N.std(ddof=1))
    z_N = gaps_N / deviation if deviation > 0.0 else np.zeros_like(gaps_N)
    x_N3 = np.stack([np.tanh(z_N), difficulty_N, np.ones_like(z_N)], axis=1)
    return _Run(names, cluster_N, share_N, judged, z_N, x_N3)


def _columns(
    preferences: Sequence[float | None],
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    difficulty: Sequence[float] | None,
) -> tuple[Array, Array, Array]:
    """Share of the win, baseline's length less the model's, difficulty."""
    share_N = shares(preferences)
    difficulty_N = np.zeros(len(share_N)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    sizes = {len(share_N), len(lengths), len(baseline_lengths), len(difficulty_N)}
    if len(sizes) != 1:
        raise InputError(f"length control: lists of different lengths: {sorted(sizes)}; each has one entry for a pair")
    if not np.isfinite(difficulty_N).all():
        raise InputError("length control: a difficulty is not finite")
    gaps_N = np.asarray(baseline_lengths, dtype=np.float64) - np.asarray(lengths, dtype=np.float64)
    return share_N, gaps_N, difficulty_N


def _bounds(run: _Run, whole: Fit, penalty: float, resamples: int) -> tuple[float, float]:
    if not np.ptp(run.verdicts) > 0.0:  # all resamples are equal, which does not make the rate certain
        interval = rate_interval((100.0 * run.share_N).tolist(), run.names, most=100.0)
        return interval.low, interval.high

    def resampled(weights_N: Array) -> float:
        model = run.fitted(weights_N, penalty, whole.coefficients)
        return 100.0 * float(np.average(run.at_equal_length(model), weights=weights_N))

    return bounds(bootstrap(resampled, run.names, resamples=resamples))


def _mean_and_error(predictions: Array) -> tuple[float, float]:
    n = len(predictions)
    error = predictions.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return float(100.0 * predictions.mean()), float(100.0 * error)


def _warnings(run: _Run, whole: Fit, *, has_difficulty: bool, learned: bool) -> list[str]:
    warnings = []
    if not has_difficulty:
        warnings.append("no difficulty: its term is left out, and every prompt counts as equally hard")
    if run.judged_prompts < _FEW:
        few = f"only {run.judged_prompts} prompts have a verdict"
        warnings.append(f"{few}; under {_FEW} the coefficients say little")
    z_N = run.z_N[run.judged]
    if not np.ptp(z_N) > 0.0:
        warnings.append("the answers' lengths differ alike everywhere: nothing can be learned of length's part")
    elif min((z_N >= 0.0).mean(), (z_N <= 0.0).mean()) < 0.05:
        warnings.append("one side's answers are nearly always the longer: equal length is outside what was seen")
    hard_labels = bool(np.isin(run.verdicts, (0.0, 1.0)).all())
    if hard_labels and run.fitted(np.ones(len(run.share_N)), 0.0).separated:
        warnings.append(
            "perfect separation: length and difficulty predict every verdict, so only the penalty bounds the fit"
        )
    if not whole.converged:
        warnings.append("the fit did not converge")
    if not learned:
        warnings.append("the penalty leaves every coefficient at 0: 50 is no finding, and has no interval")
    return warnings


def _joint_step(
    tanh_MP: Array, won_MP: Array, judged_MP: npt.NDArray[np.bool_], terms_M2: Array, difficulty_P: Array
) -> tuple[Array, Array]:
    """One Newton step of the joint fit; the difficulties' block of the Hessian is diagonal and is eliminated.

    [A   B] [terms step     ]   [terms gradient     ]
    [B^T D] [difficulty step] = [difficulty gradient]      with D diagonal and K = 2 M terms
    """
    models = len(won_MP)
    length_M1, offset_M1 = terms_M2[:, :1], terms_M2[:, 1:]
    p_MP = sigmoid(length_M1 * tanh_MP + offset_M1 + difficulty_P)
    residual_MP = judged_MP * (won_MP - p_MP)
    slope_MP = judged_MP * p_MP * (1.0 - p_MP)
    x_2MP = np.stack([tanh_MP, np.ones_like(tanh_MP)])
    gradient_P = residual_MP.sum(axis=0) - difficulty_P
    gradient_M2 = (x_2MP * residual_MP).sum(axis=2).T - _RIDGE * terms_M2
    A_KK = _RIDGE * np.eye(2 * models)
    for m in range(models):
        block = slice(2 * m, 2 * m + 2)
        x_2P = x_2MP[:, m]
        A_KK[block, block] += (x_2P * slope_MP[m]) @ x_2P.T
    B_KP = (x_2MP * slope_MP).transpose(1, 0, 2).reshape(2 * models, -1)
    D_P = slope_MP.sum(axis=0) + 1.0
    reduced_KK = A_KK - (B_KP / D_P) @ B_KP.T
    reduced_K = gradient_M2.ravel() - B_KP @ (gradient_P / D_P)
    step_K = np.linalg.solve(reduced_KK, reduced_K)
    step_P = (gradient_P - step_K @ B_KP) / D_P
    return step_K.reshape(models, 2), step_P
