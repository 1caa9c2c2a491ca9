"""How far judges and people agree: AlpacaEval's agreement, bias and variance, kappas, and both orders of a pair.

Labels are preferences: 1 first better, 2 second better, 1.5 or 0 a tie, between them a probability, None no verdict.
Alike to [1, 2], a distance |a - b| is 1 between opposite labels and a half between a label and a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import FEWEST, Interval, bootstrap, bounds, numbered, rate_interval
from rayalign.statistics.winrate import shares

Array = npt.NDArray[np.float64]
Labels = Sequence[float | None]


class Agreement(NamedTuple):
    """A judge against people, in percent; an interval of NaN where too few labels were given for the figure."""

    judge: Interval
    """each of the judge's seeds against the mode of all people: the published figure; people are held to fewer"""
    humans: Interval
    """each person against the mode of the others: the published figure of people"""
    judge_symmetric: Interval
    """the judge against the modes that people are held to: of all people but one, over each one left out"""
    gap: Interval
    """judge_symmetric less humans, paired by prompt"""
    bias: float
    """error of the mode of the judge's seeds against the mode of people"""
    variance: float
    """error of one seed against the mode of the judge's others; of people it is 100 less `humans`"""


class BothOrders(NamedTuple):
    """A judge asked about each pair in both orders; figures in percent, over pairs with both verdicts."""

    consistent: Interval
    """the same verdict twice"""
    prefers_first: Interval
    """verdicts for the answer shown first, a tie being half: 50 is no position bias"""
    kappa: float
    """Cohen's, between the verdicts of the two orders"""


def agreement(
    judge: Sequence[Labels], humans: Sequence[Labels], clusters: Sequence[Hashable] | None = None
) -> Agreement:
    """Agreement of a judge with people as AlpacaEval's `analyze_evaluators` defines it, and held to equal references.

    Args:
        judge: for each seed or run its label of every pair; one run is enough but for the variance.
        humans: for each person their label of every pair.
        clusters: each pair's prompt, where prompts repeat.

    Raises:
        InputError: nobody, lists of different lengths, or no pair that both labelled.
    """
    judge_SN, humans_HN = _matrix(judge, "judge"), _matrix(humans, "human")
    if judge_SN.shape[1] != humans_HN.shape[1]:
        raise InputError(f"agreement: the judge labels {judge_SN.shape[1]} pairs, people {humans_HN.shape[1]}")
    all_N, others_HN = mode(humans_HN), _others(humans_HN)
    published = _closeness(judge_SN, all_N)
    symmetric = _closeness(judge_SN[:, None, :], others_HN[None]).reshape(-1, judge_SN.shape[1])
    people = _closeness(humans_HN, others_HN)

    def interval(values_RN: Array) -> Interval:
        return _interval(_mean(values_RN), clusters)

    gap = _mean(symmetric) - _mean(people)
    return Agreement(
        interval(published),
        interval(people),
        interval(symmetric),
        _interval(gap, clusters, least=-100.0),
        100.0 - interval(_closeness(mode(judge_SN)[None], all_N)).mean,
        100.0 - interval(_closeness(judge_SN, _others(judge_SN))).mean,
    )


def mode(labels_RN: npt.ArrayLike) -> Array:
    """The raters' commonest label of each pair, in [0, 1]; NaN without one; of labels between the median.

    Of two equally common labels the larger, of three the smallest: what AlpacaEval's random choice comes to, its seed
    being the same for every pair.
    """
    labels = np.asarray(labels_RN, dtype=np.float64)
    given_N = (~np.isnan(labels)).sum(axis=0)
    counts_LN = np.stack([(labels == value).sum(axis=0) for value in (0.0, 0.5, 1.0)])
    best_LN = (counts_LN == counts_LN.max(axis=0)) & (counts_LN > 0)
    tied_N = best_LN.sum(axis=0)
    smallest_N, largest_N = best_LN.argmax(axis=0) / 2.0, 1.0 - best_LN[::-1].argmax(axis=0) / 2.0
    found_N = np.where(tied_N == 2, largest_N, smallest_N)
    soft_N = (given_N > 0) & (counts_LN.sum(axis=0) < given_N)
    found_N[given_N == 0] = np.nan
    found_N[soft_N] = np.nanmedian(labels[:, soft_N], axis=0) if soft_N.any() else 0.0
    return found_N


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Cohen's kappa (1960) of two raters' labels; pairs with a None are left out; NaN where both say one thing always.

    Raises:
        InputError: different lengths, or no pair that both labelled.
    """
    table, rows = _cross_table(a, b)
    return _cohen(table(np.ones(rows)))


def cohen_kappa_interval(
    a: Sequence[Hashable], b: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> Interval:
    """Cohen's kappa with its 95% interval, by bootstrap over clusters; NaN bounds where that cannot tell."""
    table, _ = _cross_table(a, b)
    kept = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x is not None and y is not None]
    names = kept if clusters is None else [clusters[i] for i in kept]
    return _resampled(lambda weights: _cohen(table(weights)), names)


def fleiss_kappa(counts: npt.ArrayLike) -> float:
    """Fleiss' kappa (1971): counts[i, k] raters gave case i label k; NaN where only one label is ever given.

    Raises:
        InputError: not a table of counts, or cases with fewer than two or different numbers of raters.
    """
    counts_NK = _counts(counts)
    return _fleiss(counts_NK, np.ones(len(counts_NK)))


def fleiss_kappa_interval(counts: npt.ArrayLike, clusters: Sequence[Hashable] | None = None) -> Interval:
    """Fleiss' kappa with its 95% interval, by bootstrap over clusters; NaN bounds where that cannot tell."""
    counts_NK = _counts(counts)
    names = range(len(counts_NK)) if clusters is None else clusters
    return _resampled(lambda weights: _fleiss(counts_NK, weights), names)


def both_orders(forward: Labels, swapped: Labels, clusters: Sequence[Hashable] | None = None) -> BothOrders:
    """How a judge fares with the order of the answers.

    Args:
        forward: its labels as the pairs stand.
        swapped: its labels of the pairs with the answers exchanged, already put back to the pairs as they stand.
    """
    first, second = shares(forward), shares(swapped)
    if len(first) != len(second):
        raise InputError(f"both orders: {len(first)} verdicts forward, {len(second)} swapped")
    sides = np.sign(first - 0.5), np.sign(second - 0.5)
    kept = [None if math.isnan(x) or math.isnan(y) else float(x == y) for x, y in zip(*sides, strict=True)]
    named = [[None if math.isnan(x) else x for x in side] for side in sides]
    return BothOrders(
        rate_interval([None if k is None else 100.0 * k for k in kept], clusters, most=100.0),
        rate_interval((50.0 * (1.0 - first + second)).tolist(), clusters, most=100.0),
        cohen_kappa(*named),
    )


def _matrix(raters: Sequence[Labels], who: str) -> Array:
    if not raters or len({len(labels) for labels in raters}) != 1:
        raise InputError(f"agreement: needs at least one {who}, each with a label or None for every pair")
    return np.stack([shares(labels) for labels in raters])


def _others(labels_RN: Array) -> Array:
    """For each rater the mode of all the others; NaN for a rater alone."""
    if len(labels_RN) == 1:
        return np.full_like(labels_RN, np.nan)
    return np.stack([mode(np.delete(labels_RN, r, axis=0)) for r in range(len(labels_RN))])


def _closeness(labels: Array, reference: Array) -> Array:
    return 100.0 * (1.0 - np.abs(labels - reference))


def _mean(values_RN: Array) -> Array:
    """The mean over raters of each pair; NaN where there is none."""
    given = (~np.isnan(values_RN)).sum(axis=0)
    return np.where(given > 0, np.nansum(values_RN, axis=0) / np.maximum(given, 1), np.nan)


def _interval(values_N: Array, clusters: Sequence[Hashable] | None, least: float = 0.0) -> Interval:
    if np.isnan(values_N).all():
        return Interval(math.nan, math.nan, math.nan, 0)
    return rate_interval(values_N.tolist(), clusters, least=least, most=100.0)


def _resampled(statistic: Callable[[Array], float], names: Sequence[Hashable]) -> Interval:
    """Few clusters, or resamples that all say one thing, as of raters who never disagree, bound nothing."""
    low, high = bounds(bootstrap(statistic, names))
    n = numbered(names)[1]
    sure = n >= FEWEST and low < high
    return Interval(statistic(np.ones(len(names))), *((low, high) if sure else (math.nan, math.nan)), n)


def _cross_table(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[Callable[[Array], Array], int]:
    """What counts the pairs of labels, given each pair's weight; and how many pairs there are."""
    if len(a) != len(b):
        raise InputError(f"kappa: {len(a)} labels against {len(b)}; both raters must label the same cases")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if not pairs:
        raise InputError("kappa: there is no case that both raters labelled")
    cells, k = numbered([label for pair in pairs for label in pair])
    at = cells[0::2] * k + cells[1::2]
    return lambda weights: np.bincount(at, weights, k * k).reshape(k, k).astype(np.float64), len(pairs)


def _cohen(table_KK: Array) -> float:
    share = table_KK / table_KK.sum()
    chance = float(share.sum(axis=0) @ share.sum(axis=1))
    return (float(np.trace(share)) - chance) / (1.0 - chance) if chance < 1.0 - 1e-12 else math.nan


def _counts(counts: npt.ArrayLike) -> Array:
    found = np.asarray(counts, dtype=np.float64)
    if found.ndim != 2 or not found.size or (found < 0).any() or np.ptp(found.sum(axis=1)) or found[0].sum() < 2:
        raise InputError(
            "Fleiss' kappa: needs a table [cases, labels] of counts with the same two or more raters a row"
        )
    return found


def _fleiss(counts_NK: Array, weights_N: Array) -> float:
    raters = counts_NK[0].sum()
    share_K = np.average(counts_NK, axis=0, weights=weights_N) / raters
    within_N = (counts_NK * (counts_NK - 1.0)).sum(axis=1) / (raters * (raters - 1.0))
    observed, chance = float(np.average(within_N, weights=weights_N)), float(share_K @ share_K)
    return (observed - chance) / (1.0 - chance) if chance < 1.0 - 1e-12 else math.nan
