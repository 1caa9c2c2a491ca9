import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.algorithms.reward import pairwise_loss, ranking_loss
from rayalign.types import Outputs


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_pairwise_loss():
    chosen, rejected = torch.tensor([2.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert pairwise_loss(chosen, rejected).tolist() == pytest.approx([softplus(-1), math.log(2)])
    assert pairwise_loss(chosen, rejected, margin=0.5).tolist() == pytest.approx([softplus(-0.5), softplus(0.5)])
    assert pairwise_loss(torch.tensor([200.0, -200.0]), torch.zeros(2)).tolist() == [0, 200]


def test_ranking_loss_is_the_mean_over_all_pairs():
    scores = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    assert ranking_loss(scores).item() == pytest.approx((softplus(-2) + softplus(-1) + softplus(1)) / 3)
    assert ranking_loss(scores[:2]) == pairwise_loss(scores[:1], scores[1:2])
    assert ranking_loss(scores[:1]) == 0


def test_loss_by_hand(make_rollouts):
    algorithm = load({"name": "reward"})
    batch = algorithm.prepare(make_rollouts())
    given = torch.tensor([0.0, 2.0, 2.0, 9.0, -9.0, 5.0], dtype=torch.float64)
    loss = algorithm.loss("reward", Outputs(scores_B=given), batch)
    # one group has pairs: 1 over 2 over 0; the scores of the second are tied, the third has one answer
    assert loss.numerator.item() == pytest.approx((math.log(2) + softplus(-2) + softplus(-2)) / 3)
    assert loss.normaliser == algorithm.normaliser("reward", batch) == 1
    found = {name: (metric.value, metric.weight) for name, metric in loss.metrics.items()}
    assert found == {
        "loss/reward": (pytest.approx(loss.numerator.item()), 1),
        "reward/accuracy": (pytest.approx(2.5 / 3), 3),
        "reward/longer_accuracy": (pytest.approx(2 / 3), 3),  # 4, 1 and 3 tokens
        "reward/margin": (pytest.approx(4 / 3), 3),
    }


def test_each_group_counts_alike(make_rollouts):
    rollouts = make_rollouts()
    rollouts.scores_B = torch.tensor([1.0, 3.0, 2.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    algorithm = load({"name": "reward"})
    loss = algorithm.loss("reward", Outputs(scores_B=torch.zeros(6)), algorithm.prepare(rollouts))
    assert loss.numerator.item() == pytest.approx(2 * math.log(2)) and loss.normaliser == 2


def test_absent_scores_make_no_pair(make_rollouts):
    rollouts = make_rollouts()
    rollouts.scores_B[:2] = math.nan
    algorithm = load({"name": "reward"})
    batch = algorithm.prepare(rollouts)
    assert batch.unit_B.tolist() == [0, 1, 1, 2] and algorithm.normaliser("reward", batch) == 0
    given = torch.ones(4, requires_grad=True)
    loss = algorithm.loss("reward", Outputs(scores_B=given), batch)
    assert loss.numerator == 0 and (torch.autograd.grad(loss.numerator, given)[0] == 0).all()
