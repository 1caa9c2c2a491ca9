"""Parameters of the simulated human (`annotator.human`), fitted to published figures or to the labels of people.

Agreement and variance are in percent, as AlpacaEval publishes them; parameters are in the units of `HumanConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.annotator.human import holds_list
from rayalign.config import HumanConfig
from rayalign.errors import InputError
from rayalign.statistics.intervals import share_interval
from rayalign.statistics.logistic import sigmoid

Array = npt.NDArray[np.float64]
_FEWEST = 30
"""labels without a tie that a fit needs"""
_RIDGE = 1e-3
"""keeps a temperature from going far below a thirtieth of the largest gap, which no labels can show"""
_FLIP_GAIN = 5.0
"""log-likelihood that a flip must gain: next to labels at random, flips with a temperature of 0 gain up to 4"""
_BIASES = ("length_bias", "position_bias", "list_bias")
_Z = 1.959964


class Case(NamedTuple):
    """A pair in the order that it was shown, what each answer is worth, and perhaps what a human said."""

    answers: tuple[str, str]
    utilities: tuple[float, float]
    label: float | None = None
    """1 first better, 2 second better, between them a probability, 1.5 a tie, None none given"""


class Estimate(NamedTuple):
    """A number with its 95% interval; an infinite bound where the data set none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A simulated human and how well it is known."""

    human: HumanConfig
    figures: dict[str, Estimate]
    """each fitted parameter, and the figures of the pairs with them"""
    warnings: tuple[str, ...] = ()
    """which parameters the data do not identify"""


def share(value: float, n: int) -> Estimate:
    """A share of `n` cases, from 0 to 1, with its interval."""
    return Estimate(*share_interval(value, n)[:3])


def fit_to_target(
    cases: Sequence[Case], agreement: float, variance: float, *, base: HumanConfig | None = None
) -> Fitted:
    """Temperature and self-disagreement with which a human has these figures on these pairs; the rest is `base`'s.

    Agreement: 100 (1 - mean |verdict - noiseless verdict|), where AlpacaEval has the mode of people. Variance: the
    error of one verdict against the mode of three others of the same annotator under other seeds, leaving each of four
    out in turn. Both are expectations over the noise, computed and not drawn; the intervals are those of a measurement
    on as many pairs. `between` is the variance where the four are annotators of different names.

    Raises:
        InputError: no temperature, or no self-disagreement, has the figures; the message says what can be had.
    """
    base = base or HumanConfig()
    design = _design(cases)
    spread = float(np.abs(design[:, 0]).max(initial=0.0))
    if spread == 0.0:
        raise InputError("fit: every pair has two answers of the same utility; give pairs that differ")
    low, high = 1e-6 * spread, 1e6 * spread
    best, worst = (100 * _agreement(design, base.model_copy(update={"temperature": t})) for t in (low, high))
    if not worst < agreement <= best:
        raise InputError(
            f"fit: an agreement of {agreement:g} can't be had on these pairs: it goes from {worst:.1f} at a high "
            f"temperature to {best:.1f} at a low one; ask for one between, or lower the flips and biases"
        )
    for _ in range(60):
        middle = math.sqrt(low * high)
        above = 100 * _agreement(design, base.model_copy(update={"temperature": middle})) >= agreement
        low, high = (middle, high) if above else (low, middle)
    human = base.model_copy(update={"temperature": low})
    between = _variance(design, human)
    if not 0.0 <= variance <= 100 * between * (1 + 1e-9):
        raise InputError(
            f"fit: with an agreement of {agreement:g} the variance on these pairs is at most {100 * between:.1f}, not "
            f"{variance:g}; ask for less of one of them"
        )
    fresh = min(1.0, variance / (100 * between)) if between else 0.0
    human = HumanConfig.model_validate({**human.model_dump(), "self_disagreement": fresh})
    found = {"agreement": _agreement(design, human), "variance": fresh * between, "between": between}
    return Fitted(human, {name: _percent(share(value, len(cases))) for name, value in found.items()})


def fit_to_labels(cases: Sequence[Case]) -> Fitted:
    """The human most likely to have given these labels.

    Temperature, biases and flip: maximum likelihood of the labels that are no ties, by Fisher scoring for each of a
    grid of flips; a bias that the pairs can't show, or a flip that the labels don't tell from none, stays 0 with a
    warning. Tie: the gap below which as many pairs lie as labels tie. Abstention: the share without a label.
    Self-disagreement can't be seen in single labels and stays 0. The figure `agreement` is that of the labels with the
    utilities alone.

    Raises:
        InputError: too few labels, a label or utility that is none, or labels that do not rise with the utilities.
    """
    asked = [case for case in cases if case.answers[0] != case.answers[1]]
    given = [case for case in asked if case.label is not None]
    labels = np.array([case.label for case in given], dtype=np.float64)
    if not ((labels >= 1.0) & (labels <= 2.0)).all():
        raise InputError("fit: a label is outside 1 to 2; 1 is the first answer, 2 the second, 1.5 a tie")
    chosen = labels != 1.5
    if chosen.sum() < _FEWEST:
        raise InputError(f"fit: {int(chosen.sum())} labels prefer an answer; {_FEWEST} are the fewest to fit to")
    design = _design(given)
    wins, columns = 2.0 - labels[chosen], _columns(design[chosen])
    warnings = [f"{_BIASES[i - 1]}: these pairs can't show it; left at 0" for i in range(1, 4) if i not in columns]
    kept = design[chosen][:, columns]
    flip, betas, unsure = _flip(kept, wins)
    warnings += unsure
    figures, more = _parameters(kept, wins, betas, flip, columns)
    estimates = {name: estimate.value for name, estimate in figures.items()} | {"flip": flip.value}
    gaps = np.abs(design @ [1.0, *(estimates.get(name, 0.0) for name in _BIASES)])
    tie, unruly = _tie(gaps, ~chosen)
    figures |= {"flip": flip, "tie": tie, "abstain": share(1 - len(given) / len(asked), len(asked))}
    human = HumanConfig(**{**estimates, "tie": tie.value, "abstain": figures["abstain"].value})
    meets = 1 - np.abs(labels - 1.5 + 0.5 * np.sign(design[:, 0]))
    figures["agreement"] = _percent(share(float(meets.mean()), len(given)))
    return Fitted(human, figures, (*warnings, *more, *unruly))


def _percent(estimate: Estimate) -> Estimate:
    return Estimate(*(100 * x for x in estimate))


def _design(cases: Sequence[Case]) -> Array:
    """A row for each case: how much the first answer has more of utility, of words, of being first, of lists."""
    rows = [
        (u - v, len(a.split()) - len(b.split()), float(a != b), float(holds_list(a)) - float(holds_list(b)))
        for (a, b), (u, v), _ in cases
    ]
    design = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(design).all():
        row = int(np.argmin(np.isfinite(design).all(axis=1)))
        raise InputError(f"fit: pair {row} has the utilities {cases[row].utilities}; leave out pairs without a score")
    return design


def _first_wins(design: Array, human: HumanConfig) -> Array:
    """P(first better) of each pair; NaN where the human ties."""
    gaps = design @ [1.0, human.length_bias, human.position_bias, human.list_bias]
    p = human.flip + (1 - 2 * human.flip) * sigmoid(gaps / human.temperature)
    return np.where((np.abs(gaps) < human.tie) | (design[:, 2] == 0.0), np.nan, p)


def _agreement(design: Array, human: HumanConfig) -> float:
    p = _first_wins(design, human)
    order = np.sign(design[:, 0])
    meets = np.where(order == 0.0, 0.5, np.where(order > 0.0, p, 1 - p))
    return float(np.where(np.isnan(p), np.where(order == 0.0, 1.0, 0.5), meets).mean())


def _variance(design: Array, human: HumanConfig) -> float:
    p = _first_wins(design, human)
    mode = p**3 + 3 * p**2 * (1 - p)
    return float(np.nan_to_num(p * (1 - mode) + (1 - p) * mode).mean())


def _columns(design: Array) -> list[int]:
    """The utility, and each bias that is not a combination of those before it."""
    kept = [0]
    for i in range(1, design.shape[1]):
        scaled = design[:, [*kept, i]] / np.maximum(np.abs(design[:, [*kept, i]]).max(axis=0), 1e-300)
        if np.linalg.matrix_rank(scaled, tol=1e-6 * math.sqrt(len(scaled))) > len(kept):
            kept.append(i)
    return kept


def _flip(design: Array, wins: Array) -> tuple[Estimate, Array, list[str]]:
    """The most likely flip with its profile interval, and the coefficients with it."""
    coarse = _profile(design, wins, np.arange(0.0, 0.5, 0.02).tolist())
    top = max(coarse, key=lambda fit: fit[0])[1]
    fine = np.arange(max(0.0, top - 0.02), min(0.49, top + 0.02), 0.001)
    fits = coarse + _profile(design, wins, fine.tolist())
    best, flip, beta = max(fits, key=lambda fit: fit[0])
    fitting = [f for value, f, _ in fits if value > best - _Z * _Z / 2]
    low, high = min(fitting), max(fitting)
    if best - coarse[0][0] > _FLIP_GAIN:
        return Estimate(flip, low, high), beta, []
    told = [] if high < 0.02 else [f"flip: the labels don't tell it from 0, nor from {high:.2f}; left at 0"]
    return Estimate(0.0, 0.0, high), coarse[0][2], told


def _profile(design: Array, wins: Array, flips: Sequence[float]) -> list[tuple[float, float, Array]]:
    """(log-likelihood, flip, coefficients) of each flip."""
    found: list[tuple[float, float, Array]] = []
    beta: Array = np.zeros(design.shape[1])
    for flip in flips:
        value, beta = _scoring(design, wins, flip, beta)
        found.append((value, flip, beta))
    return found


def _scoring(design: Array, wins: Array, flip: float, beta: Array) -> tuple[float, Array]:
    """Fisher scoring with halved steps: the log-likelihood and the coefficients of a logit with known flips."""
    scale = np.maximum(np.abs(design).max(axis=0), 1e-300)
    x, b = design / scale, beta * scale

    def value(b: Array) -> float:
        p = _likely(x @ b, flip)
        return float((wins * np.log(p) + (1 - wins) * np.log(1 - p)).sum() - 0.5 * _RIDGE * (b @ b))

    now = value(b)
    for _ in range(60):
        p, s = _likely(x @ b, flip), sigmoid(x @ b)
        slope = (1 - 2 * flip) * s * (1 - s)
        weight = slope / (p * (1 - p))
        information = (x * (weight * slope)[:, None]).T @ x + _RIDGE * np.eye(len(b))
        step = np.linalg.solve(information, x.T @ (weight * (wins - p)) - _RIDGE * b)
        while (then := value(b + step)) < now and np.abs(step).max() > 1e-9:
            step = step / 2
        gain, now, b = then - now, then, b + step
        if gain < 1e-9 * (1 + abs(now)):
            break
    return now, b / scale


def _parameters(
    design: Array, wins: Array, beta: Array, flip: Estimate, columns: list[int]
) -> tuple[dict[str, Estimate], list[str]]:
    """Temperature and biases of the coefficients, with intervals from the information of them and the flip."""
    if beta[0] <= 0.0:
        raise InputError(
            "fit: the labels do not rise with the utilities, so no temperature fits them; look whether label 1 means "
            "the first answer, or give a judge that agrees with these people"
        )
    eta = design @ beta
    p, s = _likely(eta, flip.value), sigmoid(eta)
    rates = np.column_stack([design * ((1 - 2 * flip.value) * s * (1 - s))[:, None], 1 - 2 * s])
    rates = rates if flip.value else rates[:, :-1]
    cov = np.linalg.pinv((rates / (p * (1 - p))[:, None]).T @ rates)[: len(beta), : len(beta)]
    half = _Z * math.sqrt(max(cov[0, 0], 0.0))
    highest = 1 / (beta[0] - half) if beta[0] > half else math.inf
    found = {"temperature": Estimate(float(1 / beta[0]), float(1 / (beta[0] + half)), float(highest))}
    for i, column in enumerate(columns[1:], start=1):
        slope = np.eye(len(beta))[i] / beta[0] - np.eye(len(beta))[0] * beta[i] / beta[0] ** 2
        value, half = float(beta[i] / beta[0]), _Z * math.sqrt(max(float(slope @ cov @ slope), 0.0))
        found[_BIASES[column - 1]] = Estimate(value, value - half, value + half)
    if np.array_equal(wins > 0.5, design[:, 0] > 0.0) or ((2.0 * wins - 1.0) * eta > 0.0).all():
        told = "temperature: the labels follow the utilities and biases without exception; any below"
        return found, [f"{told} {1 / beta[0]:.3g} fits"]
    if math.isinf(highest):
        return found, ["temperature: the labels hardly follow the utilities, so it and the biases are guesses"]
    return found, []


def _tie(gaps: Array, tied: npt.NDArray[np.bool_]) -> tuple[Estimate, list[str]]:
    """The gap below which as many pairs lie as tie; whether those that tie are they."""
    if not tied.any():
        return Estimate(0.0, 0.0, float(gaps.min())), []
    rates = share(float(tied.mean()), len(tied))
    found = Estimate(*(float(np.quantile(gaps, rate)) for rate in rates))
    hits = float((gaps[tied] < found.value).mean())
    told = f"tie: only {100 * hits:.0f}% of the ties are among the closest pairs, so they follow something else"
    return found, [told] if hits < 0.5 else []


def _likely(eta: Array, flip: float) -> Array:
    """P(first better), kept from 0 and 1."""
    return np.clip(flip + (1 - 2 * flip) * sigmoid(eta), 1e-12, 1 - 1e-12)
