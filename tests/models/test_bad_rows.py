"""Rows that teach nothing, or little: every algorithm of the folder takes them, and no loss or gradient is NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rayalign.algorithms.base import Algorithm, algorithm_names, load
from rayalign.types import Batch, Rollouts
from tests.models.test_invariance import gradients
from tests.models.tiny import make_rollouts, reordered

Change = Callable[[Rollouts], Rollouts]


def with_equal_scores(rollouts: Rollouts) -> Rollouts:
    assert rollouts.scores_B is not None
    return replace(rollouts, scores_B=torch.ones_like(rollouts.scores_B))


def of_one_candidate(rollouts: Rollouts) -> Rollouts:
    return replace(rollouts, group_B=torch.arange(len(rollouts.group_B)))


def without_answers(rollouts: Rollouts) -> Rollouts:
    return replace(rollouts, policy_mask_BT=torch.zeros_like(rollouts.policy_mask_BT))


def of_one_token(rollouts: Rollouts) -> Rollouts:
    """Each answer its end token alone."""
    count_BT = rollouts.policy_mask_BT.cumsum(dim=1)
    shorter_BT = rollouts.attention_mask_BT * (count_BT <= 1)
    return replace(rollouts, attention_mask_BT=shorter_BT, policy_mask_BT=rollouts.policy_mask_BT * (count_BT == 1))


def all_alike(rollouts: Rollouts) -> Rollouts:
    """The same text in all rows, with the verdicts as they were."""
    rows_B = torch.zeros(len(rollouts.group_B), dtype=torch.long)
    names = ("group_B", "scores_B", "preferences_B", "desirable_B")
    return replace(reordered(rollouts, rows_B), **{name: getattr(rollouts, name) for name in names})


CHANGES = (with_equal_scores, of_one_candidate, without_answers, of_one_token, all_alike)


def batch_of(algorithm: Algorithm[Any], change: Change) -> Batch:
    rollouts = make_rollouts(algorithm, seed=3)
    pairs = bool(algorithm.needs & {"preferences", "mismatched"})
    return algorithm.prepare(rollouts if pairs and change is of_one_candidate else change(rollouts))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", algorithm_names())
def test_no_loss_or_gradient_is_nan(name: str, change: Change) -> None:
    algorithm = load({"name": name})
    batch = batch_of(algorithm, change)
    assert all(metric.value == metric.value for metric in batch.metrics.values())
    if len(batch):
        assert all(result.isfinite().all() for result in gradients(algorithm, batch))


RANKED = ("reward", "rloo", "online_dpo")
"""algorithms that learn from the order of a group alone"""


@pytest.mark.parametrize("name", RANKED)
def test_one_candidate_alone_teaches_nothing_where_only_the_order_counts(name: str) -> None:
    algorithm = load({"name": name, **({"kl_coefficient": 0.0} if name == "rloo" else {})})
    batch = batch_of(algorithm, of_one_candidate)
    assert not len(batch) or not gradients(algorithm, batch)[0].any()


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "simpo", "reward"])
def test_two_answers_of_the_same_text_have_a_loss_without_a_gradient(name: str) -> None:
    algorithm = load({"name": name})
    (result,) = gradients(algorithm, batch_of(algorithm, all_alike))
    assert result[0] > 0
    assert result[1:].abs().max() < 1e-12
