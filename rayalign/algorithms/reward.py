"""Reward model: the Bradley-Terry likelihood of every pair of a group, weighted 1 / pairs (Ouyang 2022, eq. 1)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.algorithms.ops import token_tensors, units
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts


class RewardConfig(AlgorithmConfig):
    """Settings of reward modelling."""

    margin: NonNegativeFloat = 0.0
    """how much higher the better answer is to score"""


def pairwise_loss(chosen_B: Tensor, rejected_B: Tensor, *, margin: float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected - margin) of each pair."""
    return -logsigmoid(chosen_B - rejected_B - margin)


def ranking_loss(scores_K_best_first: Tensor) -> Tensor:
    """Mean of `pairwise_loss` over the C(K, 2) pairs of candidates given best first; 0 for a single one."""
    size = len(scores_K_best_first)
    chosen, rejected = torch.triu_indices(size, size, offset=1, device=scores_K_best_first.device)
    losses = pairwise_loss(scores_K_best_first[chosen], scores_K_best_first[rejected])
    return losses.sum() / max(losses.numel(), 1)


class Reward(Algorithm[RewardConfig]):
    """`-log sigmoid(s_better - s_worse - margin)` of scalar scores; answers scored alike make no pair."""

    Config = RewardConfig
    unit = "group"
    trains = ("reward",)

    @property
    def needs(self) -> frozenset[Need]:
        """Scores, of which only the order counts."""
        return frozenset({"scores"})

    @property
    def metrics(self) -> frozenset[str]:
        """The loss, and of the pairs accuracy and margin."""
        return frozenset({"loss/reward", "reward/accuracy", "reward/longer_accuracy", "reward/margin"})

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Answers with a score."""
        assert rollouts.scores_B is not None
        batch = Batch({**token_tensors(rollouts), "scores_B": rollouts.scores_B}, rollouts.group_B)
        return batch.rows((~rollouts.scores_B.isnan()).nonzero().squeeze(1))

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Groups with at least one pair."""
        _, _, group = _pairs(minibatch)
        return float(len(units(group)))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The sum over groups of the mean loss of their pairs."""
        assert outputs.scores_B is not None
        chosen, rejected, group = _pairs(minibatch)
        gaps = outputs.scores_B[chosen] - outputs.scores_B[rejected]
        losses = pairwise_loss(gaps, torch.zeros_like(gaps), margin=self.config.margin)
        total = (losses / (group[:, None] == group).sum(1)).sum()
        count, size = float(len(units(group))), float(len(group))
        lengths = minibatch["policy_mask_BT"].bool().sum(1)
        margin = gaps.detach().sum().item() / max(size, 1.0)
        metrics = {
            "loss/reward": Metric(total.item() / max(count, 1.0), count),
            "reward/accuracy": _share_above(gaps.detach()),
            "reward/longer_accuracy": _share_above(lengths[chosen] - lengths[rejected]),
            "reward/margin": Metric(margin, size),
        }
        return LossSum(total, count, metrics)


def _pairs(minibatch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pair: the row of the better answer, that of the worse, and the group."""
    scores_B = minibatch["scores_B"]
    unit_B = minibatch.unit_B.to(scores_B.device)
    better = (scores_B[:, None] > scores_B) & (unit_B[:, None] == unit_B)
    chosen, rejected = better.nonzero(as_tuple=True)
    return chosen, rejected, unit_B[chosen]


def _share_above(gaps: Tensor) -> Metric:
    """Share of pairs with a gap above 0; a gap of 0 is right in half the cases."""
    count = float(gaps.numel())
    return Metric(((gaps.sign() + 1) / 2).sum().item() / max(count, 1.0), count)


ALGORITHM = Reward
