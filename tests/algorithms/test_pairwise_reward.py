"""The pairwise reward model's loss by hand, and what holds of it by construction."""

import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts

ALGORITHM = load({"name": "pairwise_reward"})


def cost(z: float) -> float:
    """-log sigmoid(z)."""
    return math.log1p(math.exp(-z))


def rollouts() -> Rollouts:
    """Three pairs, each as (A, B) and (B, A); the mask is the first answer's: 3 and 1, 2 and 2, 1 and 2 tokens."""
    place = torch.arange(6)[None, :]
    lengths_B1 = torch.tensor([3, 1, 2, 2, 1, 2])[:, None]
    return Rollouts(
        input_ids_BT=torch.ones(6, 6, dtype=torch.long),
        attention_mask_BT=torch.ones(6, 6, dtype=torch.long),
        policy_mask_BT=((place >= 1) & (place < 1 + lengths_B1)).long(),
        group_B=torch.tensor([4, 4, 5, 5, 9, 9]),
        preferences_B=torch.tensor([1.0, 1.0, 0.75, 0.75, 0.6, 0.6], dtype=torch.float64),
    )


SCORES = (3.0, -1.0, 1.0, 2.0, 0.5, 0.5)
"""s(A, B) and s(B, A) of each pair: log-odds 2, -1/2 and 0; the second and the third pair's orders disagree"""


def loss_of(scores: tuple[float, ...], batch):
    scores_B = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    return ALGORITHM.loss("reward", Outputs(scores_B=scores_B), batch), scores_B


def test_loss_by_hand() -> None:
    batch = ALGORITHM.prepare(rollouts())
    loss, _ = loss_of(SCORES, batch)
    expected = cost(2) + 0.75 * cost(-0.5) + 0.25 * cost(0.5) + math.log(2)
    assert loss.numerator.item() == pytest.approx(expected)
    assert loss.normaliser == ALGORITHM.normaliser("reward", batch) == 3
    assert {name: (metric.value, metric.weight) for name, metric in loss.metrics.items()} == {
        "loss/reward": (pytest.approx(expected / 3), 3),
        "reward/accuracy": (pytest.approx((1 + 0 + 0.5) / 3), 3),
        "reward/longer_accuracy": (pytest.approx((1 + 0.5 + 0) / 3), 3),
        "reward/margin": (pytest.approx(1.5 / 3), 3),
        "reward/consistency": (pytest.approx(1 / 3), 3),
    }
    assert set(loss.metrics) == ALGORITHM.metrics


def test_gradient_is_probability_less_label_half_for_each_order() -> None:
    loss, scores_B = loss_of(SCORES, ALGORITHM.prepare(rollouts()))
    (gradient_B,) = torch.autograd.grad(loss.numerator, scores_B)
    slopes = [1 / (1 + math.exp(-logit)) - label for logit, label in ((2.0, 1.0), (-0.5, 0.75), (0.0, 0.6))]
    expected = [half for slope in slopes for half in (slope / 2, -slope / 2)]
    assert gradient_B.tolist() == pytest.approx(expected)


def test_a_pair_costs_the_same_in_either_order() -> None:
    """The other answer first, with the other probability."""
    batch = ALGORITHM.prepare(rollouts())
    swapped = rollouts()
    swapped.preferences_B = 1 - swapped.preferences_B
    turned = (SCORES[1], SCORES[0], SCORES[3], SCORES[2], SCORES[5], SCORES[4])
    one, _ = loss_of(SCORES, batch)
    other, _ = loss_of(turned, ALGORITHM.prepare(swapped))
    assert one.numerator.item() == pytest.approx(other.numerator.item())


def test_micro_batches_add_up() -> None:
    batch = ALGORITHM.prepare(rollouts())
    whole, scores_B = loss_of(SCORES, batch)
    parts = [loss_of(SCORES[start : start + 2], batch.rows(torch.arange(start, start + 2)))[0] for start in (0, 2, 4)]
    assert sum(part.numerator.item() for part in parts) == pytest.approx(whole.numerator.item())
    assert sum(part.normaliser for part in parts) == whole.normaliser


def test_extreme_scores_cost_no_infinity() -> None:
    loss, scores_B = loss_of((-1e6, 1e6, 1e6, -1e6, 0.0, 0.0), ALGORITHM.prepare(rollouts()))
    assert math.isfinite(loss.numerator.item())
    assert torch.autograd.grad(loss.numerator, scores_B)[0].isfinite().all()
