"""How much a prompt still teaches, from the rewards of its candidates (Ye 2024, eva, arXiv 2411.00062, section 3.2).

Shapes: P prompts, K candidates. An absent reward is NaN; a prompt without any has no value, and no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from rayalign.config import Metric, WeightKind
from rayalign.errors import InputError

Array = npt.NDArray[np.float64]


def informativeness(rewards_PK: npt.ArrayLike, metric: Metric) -> Array:
    """One value for each prompt; the higher, the more it teaches.

    | metric | value | name in the paper |
    |---|---|---|
    | `gap` | best - worst | A*_min, the default there |
    | `max_mean` | best - mean | A*_avg |
    | `dueling` | best - second best | A*_dts |
    | `mean` | mean | A_avg |
    | `inverse_mean` | 1 - (mean - least mean) / (greatest mean - least mean); 1/2 where all are equal | inverse |
    | `variance` | population variance | var |
    | `uniform` | 1 / P | uniform |

    Raises:
        InputError: an unknown metric, or no table of prompts and candidates.
    """
    rewards = np.asarray(rewards_PK, dtype=np.float64)
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise InputError("informativeness: needs rewards as a table of prompts and at least one candidate")
    if metric not in get_args(Metric):
        raise InputError(f"informativeness: there is no metric {metric!r}; take one of {', '.join(get_args(Metric))}")
    present_P = ~np.isnan(rewards).all(axis=1)
    values_P = np.full(len(rewards), np.nan)
    if present_P.any():
        values_P[present_P] = _METRICS[metric](rewards[present_P])
    return values_P


def _mean(rewards_PK: Array) -> Array:
    return np.asarray(np.nanmean(rewards_PK, axis=1))


def _best(rewards_PK: Array) -> Array:
    return np.asarray(np.nanmax(rewards_PK, axis=1))


def _dueling(rewards_PK: Array) -> Array:
    """0 for a prompt with a single reward."""
    if rewards_PK.shape[1] == 1:
        return np.zeros(len(rewards_PK))
    ranked_PK = np.partition(np.where(np.isnan(rewards_PK), -np.inf, rewards_PK), -2, axis=1)
    best_P, second_P = ranked_PK[:, -1], ranked_PK[:, -2]
    return np.where(np.isneginf(second_P), 0.0, best_P - second_P)


def _inverse_mean(rewards_PK: Array) -> Array:
    means_P = _mean(rewards_PK)
    spread = means_P.max() - means_P.min()
    if spread == 0:
        return np.full(len(means_P), 0.5)
    return np.asarray(1 - (means_P - means_P.min()) / spread)


_METRICS: dict[str, Callable[[Array], Array]] = {
    "gap": lambda rewards_PK: _best(rewards_PK) - np.nanmin(rewards_PK, axis=1),
    "max_mean": lambda rewards_PK: _best(rewards_PK) - _mean(rewards_PK),
    "dueling": _dueling,
    "mean": _mean,
    "inverse_mean": _inverse_mean,
    "variance": lambda rewards_PK: np.asarray(np.nanvar(rewards_PK, axis=1)),
    "uniform": lambda rewards_PK: np.full(len(rewards_PK), 1 / len(rewards_PK)),
}


def sampling_weights(values_P: npt.ArrayLike, *, kind: WeightKind, floor: float = 0.0) -> Array:
    """Probabilities that sum to 1.

    `proportional` takes values as they are, as the paper says; where one is negative, all are raised by the least.
    `min-max` raises them by the least in any case, as the released code does, so that the least informative prompt is
    never drawn. Equal values give equal weights. Prompts without a value get none.

    Args:
        floor: share that is spread evenly over all prompts with a value, from 0 to 1.

    Raises:
        InputError: an unknown kind, no value at all, an infinite one, or a floor outside 0 and 1.
    """
    values = np.asarray(values_P, dtype=np.float64)
    if kind not in get_args(WeightKind):
        raise InputError(f"sampling weights: there is no kind {kind!r}; take proportional or min-max")
    if not 0.0 <= floor <= 1.0:
        raise InputError(f"sampling weights: the floor is a share from 0 to 1, got {floor}")
    present_P = ~np.isnan(values)
    if not present_P.any() or np.isinf(values[present_P]).any():
        raise InputError("sampling weights: needs finite values; every reward is absent, or one is infinite")
    least = values[present_P].min()
    raised = kind == "min-max" or least < 0
    weights_P = np.where(present_P, values - least if raised else values, 0.0)
    even_P = present_P / present_P.sum()
    total = weights_P.sum()
    own_P = weights_P / total if total > 0 else even_P
    return np.asarray((1 - floor) * own_P + floor * even_P)


def topic_blend(weights_P: npt.ArrayLike, topics: Sequence[Hashable], coefficient: float) -> Array:
    """Weights drawn towards rare topics: (1 - c) weight + c inverse topic frequency, both summing to 1.

    Raises:
        InputError: not one topic for each weight, or a coefficient outside 0 and 1.
    """
    weights = np.asarray(weights_P, dtype=np.float64)
    if len(topics) != len(weights):
        raise InputError(f"topic blend: {len(topics)} topics for {len(weights)} prompts; name one for each")
    if not 0.0 <= coefficient <= 1.0:
        raise InputError(f"topic blend: the coefficient is a share from 0 to 1, got {coefficient}")
    numbers: dict[Hashable, int] = {}
    topic_P = np.array([numbers.setdefault(topic, len(numbers)) for topic in topics], dtype=np.int64)
    inverse_P = 1 / np.bincount(topic_P)[topic_P]
    return np.asarray((1 - coefficient) * weights / weights.sum() + coefficient * inverse_P / inverse_P.sum())
