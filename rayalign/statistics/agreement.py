"""How far judges and people agree: AlpacaEval's agreement, bias and variance, kappas, and both orders of a pair.

Labels are preferences: 1 the first answer is better, 2 the second, 1.5 or 0 a tie, between them a probability, None no
verdict. The distance of two labels is |a - b|: 1 between opposite labels, a half between a label and a tie.
Shapes: N pairs, R raters, S seeds of the judge, H people, K labels.
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
    """A judge against people, in percent; an interval is NaN where there are too few labels for the figure."""

    judge: Interval
    """each of the judge's seeds against the mode of all people: the published figure; people have one vote fewer"""
    humans: Interval
    """each person against the mode of the others: the published figure of people"""
    judge_symmetric: Interval
    """the judge against the modes that people are compared with: of all people but one, averaged over that one"""
    gap: Interval
    """judge_symmetric less humans, paired by prompt"""
    bias: float
    """error of the mode of the judge's seeds against the mode of people"""
    variance: float
    """error of one seed against the mode of the judge's other seeds; for people it is 100 less `humans`"""


class BothOrders(NamedTuple):
    """A judge that saw each pair in both orders; figures in percent, over pairs with both verdicts."""

    consistent: Interval
    """the same verdict twice"""
    prefers_first: Interval
    """verdicts for the answer shown first, where a tie counts half: 50 is no position bias"""
    kappa: float
    """Cohen's, between the verdicts of the two orders"""


def agreement(
    judge: Sequence[Labels], humans: Sequence[Labels], clusters: Sequence[Hashable] | None = None
) -> Agreement:
    """Agreement of a judge with people as AlpacaEval's `analyze_evaluators` defines it, and on equal references.

    Args:
        judge: for each seed or run its label of every pair; one run is enough except for the variance.
        humans: for each person their label of every pair.
        clusters: each pair's prompt, where prompts repeat.

    Raises:
        InputError: no rater, lists of different lengths, or no pair that both labelled.
    """
    judge_SN, humans_HN = _matrix(judge, "judge"), _matrix(humans, "human")
    if judge_SN.shape[1] != humans_HN.shape[1]:
        raise InputError(f"agreement: the judge labels {judge_SN.shape[1]} pairs, people {humans_HN.shape[1]}")
    mode_N, modes_of_others_HN = mode(humans_HN), _modes_of_others(humans_HN)
    published_SN = _closeness(judge_SN, mode_N)
    symmetric_SHN = _closeness(judge_SN[:, None, :], modes_of_others_HN[None])
    symmetric_N = _mean(symmetric_SHN.reshape(-1, judge_SN.shape[1]))
    people_N = _mean(_closeness(humans_HN, modes_of_others_HN))
    judge_mode_N = _mean(_closeness(mode(judge_SN)[None], mode_N))
    seeds_N = _mean(_closeness(judge_SN, _modes_of_others(judge_SN)))
    return Agreement(
        _interval(_mean(published_SN), clusters),
        _interval(people_N, clusters),
        _interval(symmetric_N, clusters),
        _interval(symmetric_N - people_N, clusters, least=-100.0),
        100.0 - _interval(judge_mode_N, clusters).mean,
        100.0 - _interval(seeds_N, clusters).mean,
    )


def mode(labels_RN: npt.ArrayLike) -> Array:
    """The raters' commonest label of each pair, in [0, 1]; NaN without labels; the median where labels lie between.

    Of two equally common labels it is the larger, of three the smallest. AlpacaEval's random choice gives the same,
    because its seed is the same for every pair.
    """
    labels = np.asarray(labels_RN, dtype=np.float64)
    raters_N = (~np.isnan(labels)).sum(axis=0)
    counts_LN = np.stack([(labels == value).sum(axis=0) for value in (0.0, 0.5, 1.0)])
    commonest_LN = (counts_LN == counts_LN.max(axis=0)) & (counts_LN > 0)
    smallest_N = commonest_LN.argmax(axis=0) / 2.0
    largest_N = 1.0 - commonest_LN[::-1].argmax(axis=0) / 2.0
    mode_N = np.where(commonest_LN.sum(axis=0) == 2, largest_N, smallest_N)
    mode_N[raters_N == 0] = np.nan
    soft_N = (raters_N > 0) & (counts_LN.sum(axis=0) < raters_N)
    if soft_N.any():
        mode_N[soft_N] = np.nanmedian(labels[:, soft_N], axis=0)
    return mode_N


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Cohen's kappa (1960) of two raters' labels; pairs with a None are left out; NaN where all labels are the same.

    Raises:
        InputError: the lengths differ, or no pair has both labels.
    """
    table, rows = _cross_table(a, b)
    return _cohen(table(np.ones(rows)))


def cohen_kappa_interval(
    a: Sequence[Hashable], b: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> Interval:
    """Cohen's kappa with its 95% interval, by bootstrap over clusters; NaN bounds where that cannot estimate them."""
    table, _ = _cross_table(a, b)
    both = [i for i, labels in enumerate(zip(a, b, strict=True)) if None not in labels]
    names = both if clusters is None else [clusters[i] for i in both]
    return _resampled(lambda weights: _cohen(table(weights)), names)


def fleiss_kappa(counts: npt.ArrayLike) -> float:
    """Fleiss' kappa (1971): counts[i, k] raters gave case i label k; NaN where only one label occurs.

    Raises:
        InputError: no table of counts, or cases with fewer than two or different numbers of raters.
    """
    counts_NK = _counts(counts)
    return _fleiss(counts_NK, np.ones(len(counts_NK)))


def fleiss_kappa_interval(counts: npt.ArrayLike, clusters: Sequence[Hashable] | None = None) -> Interval:
    """Fleiss' kappa with its 95% interval, by bootstrap over clusters; NaN bounds where that cannot estimate them."""
    counts_NK = _counts(counts)
    names = range(len(counts_NK)) if clusters is None else clusters
    return _resampled(lambda weights: _fleiss(counts_NK, weights), names)


def both_orders(forward: Labels, swapped: Labels, clusters: Sequence[Hashable] | None = None) -> BothOrders:
    """How the order of the answers affects a judge.

    Args:
        forward: its labels of the pairs in their own order.
        swapped: its labels of the pairs with the answers exchanged, already mapped back to the pairs' own order.

    Raises:
        InputError: the lengths differ, or no pair has both verdicts.
    """
    first_N, second_N = shares(forward), shares(swapped)
    if len(first_N) != len(second_N):
        raise InputError(f"both orders: {len(first_N)} verdicts forward, {len(second_N)} swapped")
    sides_a, sides_b = _sides(first_N), _sides(second_N)
    same = [None if a is None or b is None else 100.0 * (a == b) for a, b in zip(sides_a, sides_b, strict=True)]
    first_shown_N = 50.0 * (1.0 - first_N + second_N)
    return BothOrders(
        rate_interval(same, clusters, most=100.0),
        rate_interval(first_shown_N.tolist(), clusters, most=100.0),
        cohen_kappa(sides_a, sides_b),
    )


def _sides(shares_N: Array) -> list[float | None]:
    """-1 the first answer, 0 a tie, 1 the second, None no verdict."""
    return [None if math.isnan(side) else side for side in np.sign(shares_N - 0.5).tolist()]


def _matrix(raters: Sequence[Labels], role: str) -> Array:
    if not raters or len({len(labels) for labels in raters}) != 1:
        raise InputError(f"agreement: needs at least one {role}, each with a label or None for every pair")
    return np.stack([shares(labels) for labels in raters])


def _modes_of_others(labels_RN: Array) -> Array:
    """For each rater the mode of all the others; NaN for a single rater."""
    if len(labels_RN) == 1:
        return np.full_like(labels_RN, np.nan)
    return np.stack([mode(np.delete(labels_RN, rater, axis=0)) for rater in range(len(labels_RN))])


def _closeness(labels: Array, reference: Array) -> Array:
    return 100.0 * (1.0 - np.abs(labels - reference))


def _mean(values_RN: Array) -> Array:
    """The mean over raters of each pair; NaN where there is none."""
    present_N = (~np.isnan(values_RN)).sum(axis=0)
    means_N = np.nansum(values_RN, axis=0) / np.maximum(present_N, 1)
    return np.where(present_N > 0, means_N, np.nan)


def _interval(values_N: Array, clusters: Sequence[Hashable] | None, least: float = 0.0) -> Interval:
    if np.isnan(values_N).all():
        return Interval(math.nan, math.nan, math.nan, 0)
    return rate_interval(values_N.tolist(), clusters, least=least, most=100.0)


def _resampled(statistic: Callable[[Array], float], names: Sequence[Hashable]) -> Interval:
    """The bounds are NaN for few clusters, and where all resamples are equal, as of raters who never disagree."""
    low, high = bounds(bootstrap(statistic, names))
    _, n = numbered(names)
    if n < FEWEST or not low < high:
        low, high = math.nan, math.nan
    return Interval(statistic(np.ones(len(names))), low, high, n)


def _cross_table(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[Callable[[Array], Array], int]:
    """A function from the weight of each pair to the table of both labels, and the number of pairs."""
    if len(a) != len(b):
        raise InputError(f"kappa: {len(a)} labels against {len(b)}; both raters must label the same cases")
    labels: list[Hashable] = []
    for pair in zip(a, b, strict=True):
        if None not in pair:
            labels.extend(pair)
    if not labels:
        raise InputError("kappa: there is no case that both raters labelled")
    numbers, k = numbered(labels)
    cells = numbers[0::2] * k + numbers[1::2]

    def table(weights: Array) -> Array:
        return np.bincount(cells, weights, k * k).reshape(k, k).astype(np.float64)

    return table, len(cells)


def _cohen(table_KK: Array) -> float:
    share_KK = table_KK / table_KK.sum()
    observed = float(np.trace(share_KK))
    return _above_chance(observed, float(share_KK.sum(axis=0) @ share_KK.sum(axis=1)))


def _counts(counts: npt.ArrayLike) -> Array:
    counts_NK = np.asarray(counts, dtype=np.float64)
    table = counts_NK.ndim == 2 and counts_NK.size > 0
    if not table or (counts_NK < 0).any() or np.ptp(counts_NK.sum(axis=1)) or counts_NK[0].sum() < 2:
        raise InputError(
            "Fleiss' kappa: needs a table [cases, labels] of counts with the same two or more raters a row"
        )
    return counts_NK


def _fleiss(counts_NK: Array, weights_N: Array) -> float:
    raters = counts_NK[0].sum()
    share_K = np.average(counts_NK, axis=0, weights=weights_N) / raters
    agreeing_N = (counts_NK * (counts_NK - 1.0)).sum(axis=1) / (raters * (raters - 1.0))
    observed = float(np.average(agreeing_N, weights=weights_N))
    return _above_chance(observed, float(share_K @ share_K))


def _above_chance(observed: float, chance: float) -> float:
    return (observed - chance) / (1.0 - chance) if chance < 1.0 - 1e-12 else math.nan
