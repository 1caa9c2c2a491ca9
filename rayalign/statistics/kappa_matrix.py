"""Cohen's kappa of every two of many raters, all with bootstrap intervals from the same draws.

Shapes: N cases, C clusters, R resamples, B raters beside one, F facts of two raters' labels.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.statistics.intervals import FEWEST, Interval, bounds, numbered

Counts = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]
ABSENT = -1
"""in a matrix of labels: the rater has none of that case"""
LABELS = 3
_MOST_RESAMPLES = 1000
_FEWEST_RESAMPLES = 200
_PRODUCTS = 1e11
"""multiplications that one matrix may take; a larger one has fewer resamples"""
_FACTS = 6
"""shared cases, equal labels, then the first two labels of either rater; the third ones are the rest"""


class Kappa(NamedTuple):
    """Two raters, by their places, on the cases that both labelled."""

    a: int
    b: int
    n: int
    agreement: float
    """share of equal labels; NaN where they share no case"""
    interval: Interval
    """of kappa; bounds NaN for few clusters, and where resampling shows no spread"""


def kappa_matrix(labels_BN: Labels, clusters: Sequence[Hashable]) -> Iterator[Kappa]:
    """Every two raters, in their order.

    Args:
        labels_BN: a row for each rater of numbers from 0 to `LABELS` - 1, or `ABSENT`.
        clusters: for each case the group that it belongs to, such as its prompt; whole clusters are resampled.
    """
    raters, cases = labels_BN.shape
    if raters < 2 or not cases:
        return
    cluster_N, n_clusters = numbered(clusters)
    order_N = np.argsort(cluster_N, kind="stable")
    starts_C = np.searchsorted(cluster_N[order_N], np.arange(n_clusters))
    sorted_BN = labels_BN[:, order_N]
    weights_CR = _weights(n_clusters, raters)
    for a in range(raters - 1):
        facts_FBC = _facts(sorted_BN[a], sorted_BN[a + 1 :], starts_C)
        yield from _row(a, facts_FBC, weights_CR)


def _weights(n_clusters: int, raters: int) -> Counts:
    """How often each resample draws each cluster."""
    cells = raters * (raters - 1) / 2
    affordable = int(_PRODUCTS / (cells * _FACTS * n_clusters))
    resamples = min(_MOST_RESAMPLES, max(_FEWEST_RESAMPLES, affordable))
    rng = np.random.default_rng(0)
    equal_C = np.full(n_clusters, 1 / n_clusters)
    return rng.multinomial(n_clusters, equal_C, size=resamples).T.astype(np.float32)


def _facts(own_N: Labels, others_BN: Labels, starts_C: npt.NDArray[np.intp]) -> Counts:
    """Of each cluster the counts that kappa is made of."""
    both_BN = (own_N != ABSENT) & (others_BN != ABSENT)
    facts = [
        both_BN,
        both_BN & (own_N == others_BN),
        both_BN & (own_N == 0),
        both_BN & (own_N == 1),
        both_BN & (others_BN == 0),
        both_BN & (others_BN == 1),
    ]
    counts = [np.add.reduceat(fact_BN, starts_C, axis=1, dtype=np.float32) for fact_BN in facts]
    return np.stack(counts)


def _row(a: int, facts_FBC: Counts, weights_CR: Counts) -> Iterator[Kappa]:
    facts, others, n_clusters = facts_FBC.shape
    resampled_FBR = (facts_FBC.reshape(-1, n_clusters) @ weights_CR).reshape(facts, others, -1)
    kappas_BR = _kappas(resampled_FBR)
    whole_FB = facts_FBC.sum(axis=2)
    kappas_B = _kappas(whole_FB[:, :, None])[:, 0]
    shared_B = (facts_FBC[0] > 0).sum(axis=1)
    for column in range(others):
        n, same = int(whole_FB[0, column]), float(whole_FB[1, column])
        n_clusters = int(shared_B[column])
        low, high = bounds(kappas_BR[column])
        if n_clusters < FEWEST or not low < high:
            low, high = math.nan, math.nan
        interval = Interval(float(kappas_B[column]), low, high, n_clusters)
        agreement = same / n if n else math.nan
        yield Kappa(a, a + 1 + column, n, agreement, interval)


def _kappas(facts_FBR: Counts) -> npt.NDArray[np.float64]:
    """NaN where there is no shared case, or where both only ever give the same one label."""
    n, same, a0, a1, b0, b1 = facts_FBR.astype(np.float64)
    a2 = n - a0 - a1
    b2 = n - b0 - b1
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = same / n
        chance = (a0 * b0 + a1 * b1 + a2 * b2) / (n * n)
        kappas = (observed - chance) / (1.0 - chance)
    return np.where(chance < 1.0 - 1e-12, kappas, np.nan)
