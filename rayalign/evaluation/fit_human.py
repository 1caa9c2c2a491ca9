"""Parameters of the simulated human (`annotator.human`), fitted to published figures or to the labels of people.

Agreement and variance are in percent, as AlpacaEval publishes them; parameters are in the units of `HumanConfig`.
Shapes: N pairs, K columns of the design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.annotator.judges.human import holds_list
from rayalign.config import HumanConfig
from rayalign.errors import InputError
from rayalign.statistics.flipped_logistic import fit_flip, win_probability, win_slope
from rayalign.statistics.intervals import Z95, share_interval
from rayalign.statistics.logistic import sigmoid

Array = npt.NDArray[np.float64]
_FEWEST = 30
"""labels without a tie that a fit needs"""
_FLIP_GAIN = 5.0
"""log-likelihood that a flip must gain: on random labels, flips with a temperature of 0 gain up to 4"""
_BIASES = ("length_bias", "position_bias", "list_bias")


class Case(NamedTuple):
    """A pair in the order that it was shown, the utility of each answer, and perhaps the label of a human."""

    answers: tuple[str, str]
    utilities: tuple[float, float]
    label: float | None = None
    """1 first better, 2 second better, between them a probability, 1.5 a tie, None no label"""


class Estimate(NamedTuple):
    """A number with its 95% interval; a bound is infinite where the data set none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A simulated human and the precision of its parameters."""

    human: HumanConfig
    figures: dict[str, Estimate]
    """each fitted parameter, and the figures of the pairs with them"""
    warnings: tuple[str, ...] = ()
    """parameters that the data do not identify"""


def share(value: float, n: int) -> Estimate:
    """A share of `n` cases, from 0 to 1, with its interval."""
    interval = share_interval(value, n)
    return Estimate(interval.mean, interval.low, interval.high)


def percent(estimate: Estimate) -> Estimate:
    """A share in percent."""
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def fit_to_target(
    cases: Sequence[Case], agreement: float, variance: float, *, base: HumanConfig | None = None
) -> Fitted:
    """Temperature and self-disagreement that produce these figures on these pairs; other parameters come from `base`.

    Agreement: 100 (1 - mean |verdict - noiseless verdict|), where AlpacaEval has the mode of people. Variance: the
    error of one verdict against the mode of three others of the same annotator under other seeds, where each of four
    is left out in turn. Both are exact expectations over the noise; the intervals are those of a measurement on as many
    pairs. `between` is the variance where the four are annotators of different names.

    Raises:
        InputError: no temperature, or no self-disagreement, produces the figures; the message names the limits.
    """
    base = base or HumanConfig()
    design = _design(cases)
    human = base.model_copy(update={"temperature": _target_temperature(design, agreement, base)})
    between = _variance(design, human)
    if not 0.0 <= variance <= 100 * between * (1 + 1e-9):
        raise InputError(
            f"fit: with an agreement of {agreement:g} the variance on these pairs is at most {100 * between:.1f}, not "
            f"{variance:g}; ask for less of one of them"
        )
    self_disagreement = min(1.0, variance / (100 * between)) if between else 0.0
    human = HumanConfig.model_validate({**human.model_dump(), "self_disagreement": self_disagreement})
    shares = {"agreement": _agreement(design, human), "variance": self_disagreement * between, "between": between}
    return Fitted(human, {name: percent(share(value, len(cases))) for name, value in shares.items()})


def fit_to_labels(cases: Sequence[Case]) -> Fitted:
    """The human most likely to have given these labels.

    Temperature, biases and flip: maximum likelihood of the labels that are not ties, by Fisher scoring for each of a
    grid of flips. A bias that the pairs cannot show stays 0 with a warning, and so does a flip that the labels
    cannot distinguish from 0. Tie: the gap below which as many pairs lie as labels tie. Abstention: the share without a
    label. Self-disagreement stays 0, because single labels cannot show it. The figure `agreement` is that of the labels
    with the utilities alone.

    Raises:
        InputError: too few labels, a label or utility outside its range, or labels that do not rise with the utilities.
    """
    different = [case for case in cases if case.answers[0] != case.answers[1]]
    labelled = [case for case in different if case.label is not None]
    labels = np.array([case.label for case in labelled], dtype=np.float64)
    if not ((labels >= 1.0) & (labels <= 2.0)).all():
        raise InputError("fit: a label is outside 1 to 2; 1 is the first answer, 2 the second, 1.5 a tie")
    tied = labels == 1.5
    if (~tied).sum() < _FEWEST:
        raise InputError(f"fit: {int((~tied).sum())} labels prefer an answer; {_FEWEST} are the fewest to fit to")
    design = _design(labelled)
    figures, warnings = _fit_noise(design[~tied], 2.0 - labels[~tied])
    biases = [figures[name].value if name in figures else 0.0 for name in _BIASES]
    tie, tie_warnings = _tie(np.abs(design @ [1.0, *biases]), tied)
    figures |= {"tie": tie, "abstain": share(1 - len(labelled) / len(different), len(different))}
    human = HumanConfig(**{name: estimate.value for name, estimate in figures.items()})
    agreeing = 1 - np.abs(labels - 1.5 + 0.5 * np.sign(design[:, 0]))
    figures["agreement"] = percent(share(float(agreeing.mean()), len(labelled)))
    return Fitted(human, figures, (*warnings, *tie_warnings))


def _target_temperature(design: Array, agreement: float, base: HumanConfig) -> float:
    """Bisects the temperature, which lowers the agreement, on a logarithmic scale."""
    spread = float(np.abs(design[:, 0]).max(initial=0.0))
    if spread == 0.0:
        raise InputError("fit: every pair has two answers of the same utility; give pairs that differ")

    def agreement_at(temperature: float) -> float:
        return 100 * _agreement(design, base.model_copy(update={"temperature": temperature}))

    low, high = 1e-6 * spread, 1e6 * spread
    best, worst = agreement_at(low), agreement_at(high)
    if not worst < agreement <= best:
        raise InputError(
            f"fit: an agreement of {agreement:g} is impossible on these pairs: it goes from {worst:.1f} at a high "
            f"temperature to {best:.1f} at a low one; ask for one between, or lower the flips and biases"
        )
    for _ in range(60):
        middle = math.sqrt(low * high)
        if agreement_at(middle) >= agreement:
            low = middle
        else:
            high = middle
    return low


def _design(cases: Sequence[Case]) -> Array:
    """For each case the first answer less the second: utility, words, 1 for being first, lists."""
    rows = []
    for (first, second), (utility_1, utility_2), _ in cases:
        words = len(first.split()) - len(second.split())
        lists = float(holds_list(first)) - float(holds_list(second))
        rows.append((utility_1 - utility_2, words, float(first != second), lists))
    design = np.array(rows, dtype=np.float64).reshape(-1, 4)
    finite = np.isfinite(design).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(f"fit: pair {row} has the utilities {cases[row].utilities}; leave out pairs without a score")
    return design


def _first_wins(design: Array, human: HumanConfig) -> Array:
    """P(first better) of each pair; NaN where the human ties."""
    gaps = design @ [1.0, human.length_bias, human.position_bias, human.list_bias]
    p = human.flip + (1 - 2 * human.flip) * sigmoid(gaps / human.temperature)
    tied = (np.abs(gaps) < human.tie) | (design[:, 2] == 0.0)
    return np.where(tied, np.nan, p)


def _agreement(design: Array, human: HumanConfig) -> float:
    p = _first_wins(design, human)
    order = np.sign(design[:, 0])
    with_verdict = np.where(order == 0.0, 0.5, np.where(order > 0.0, p, 1 - p))
    with_tie = np.where(order == 0.0, 1.0, 0.5)
    return float(np.where(np.isnan(p), with_tie, with_verdict).mean())


def _variance(design: Array, human: HumanConfig) -> float:
    p = _first_wins(design, human)
    mode = p**3 + 3 * p**2 * (1 - p)
    errors = p * (1 - mode) + (1 - p) * mode
    return float(np.nan_to_num(errors).mean())


def _fit_noise(design: Array, wins: Array) -> tuple[dict[str, Estimate], list[str]]:
    """Temperature, biases and flip with their intervals, and the warnings about them."""
    columns = _independent_columns(design)
    warnings = [
        f"{name}: these pairs can't show it; left at 0" for i, name in enumerate(_BIASES, start=1) if i not in columns
    ]
    x_NK = design[:, columns]
    flip, beta, flip_warnings = _flip(x_NK, wins)
    if beta[0] <= 0.0:
        raise InputError(
            "fit: the labels do not rise with the utilities, so no temperature fits them; check that label 1 means "
            "the first answer, or give a judge that agrees with these people"
        )
    covariance = _covariance(x_NK, beta, flip.value)
    figures = {"temperature": _temperature(beta, covariance)}
    for k, column in enumerate(columns[1:], start=1):
        figures[_BIASES[column - 1]] = _bias(k, beta, covariance)
    figures["flip"] = flip
    warnings += flip_warnings
    warnings += _temperature_warnings(x_NK, wins, beta, figures["temperature"])
    return figures, warnings


def _independent_columns(design: Array) -> list[int]:
    """The utility, and each bias that is not a combination of those before it."""
    columns = [0]
    for i in range(1, design.shape[1]):
        candidate = design[:, [*columns, i]]
        scaled = candidate / np.maximum(np.abs(candidate).max(axis=0), 1e-300)
        if np.linalg.matrix_rank(scaled, tol=1e-6 * math.sqrt(len(scaled))) > len(columns):
            columns.append(i)
    return columns


def _flip(x_NK: Array, wins: Array) -> tuple[Estimate, Array, list[str]]:
    """The most likely flip with its profile interval, the coefficients with it, and perhaps a warning."""
    fit = fit_flip(x_NK, wins)
    if fit.best.log_likelihood - fit.unflipped.log_likelihood > _FLIP_GAIN:
        return Estimate(fit.best.flip, fit.low, fit.high), fit.best.coefficients, []
    warnings = []
    if fit.high >= 0.02:
        warnings.append(f"flip: the labels don't tell it from 0, nor from {fit.high:.2f}; left at 0")
    return Estimate(0.0, 0.0, fit.high), fit.unflipped.coefficients, warnings


def _covariance(x_NK: Array, beta: Array, flip: float) -> Array:
    """Of the coefficients, from the information of them and of the flip where there is one."""
    logits = x_NK @ beta
    p = win_probability(logits, flip)
    by_flip = 1 - 2 * sigmoid(logits)
    rates = x_NK * win_slope(logits, flip)[:, None]
    if flip:
        rates = np.column_stack([rates, by_flip])
    information = (rates / (p * (1 - p))[:, None]).T @ rates
    covariance = np.linalg.pinv(information)
    return np.asarray(covariance[: len(beta), : len(beta)], dtype=np.float64)


def _temperature(beta: Array, covariance: Array) -> Estimate:
    half = Z95 * math.sqrt(max(covariance[0, 0], 0.0))
    highest = 1 / (beta[0] - half) if beta[0] > half else math.inf
    return Estimate(float(1 / beta[0]), float(1 / (beta[0] + half)), float(highest))


def _bias(k: int, beta: Array, covariance: Array) -> Estimate:
    """The ratio of a coefficient to the utility's, with the interval of the delta method."""
    unit = np.eye(len(beta))
    slope = unit[k] / beta[0] - unit[0] * beta[k] / beta[0] ** 2
    value = float(beta[k] / beta[0])
    half = Z95 * math.sqrt(max(float(slope @ covariance @ slope), 0.0))
    return Estimate(value, value - half, value + half)


def _temperature_warnings(x_NK: Array, wins: Array, beta: Array, temperature: Estimate) -> list[str]:
    by_utility = np.array_equal(wins > 0.5, x_NK[:, 0] > 0.0)
    separated = ((2.0 * wins - 1.0) * (x_NK @ beta) > 0.0).all()
    if by_utility or separated:
        follow = "temperature: the labels follow the utilities and biases without exception"
        return [f"{follow}; any below {temperature.value:.3g} fits"]
    if math.isinf(temperature.high):
        return ["temperature: the labels hardly follow the utilities, so it and the biases are guesses"]
    return []


def _tie(gaps: Array, tied: npt.NDArray[np.bool_]) -> tuple[Estimate, list[str]]:
    """The gap below which as many pairs lie as tie, and a warning where other pairs tie than those."""
    if not tied.any():
        return Estimate(0.0, 0.0, float(gaps.min())), []
    rates = share(float(tied.mean()), len(tied))
    tie = Estimate(*np.quantile(gaps, rates).tolist())
    close = float((gaps[tied] < tie.value).mean())
    if close >= 0.5:
        return tie, []
    return tie, [f"tie: only {100 * close:.0f}% of the ties are among the closest pairs, so they follow something else"]
