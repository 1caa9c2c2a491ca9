"""Pairwise reward model: it reads the prompt with both answers, in either order (PairRM: Jiang 2023, arXiv 2306.02561).

The model's score s(A, B) is its log-odds that the first of two answers is the better one. -s(B, A) are those of the
other order, and their mean decides: p(A beats B) = sigmoid((s(A, B) - s(B, A)) / 2). So p(A beats B) and p(B beats A)
add up to 1, and an answer beats itself with exactly 1/2. PairRM reads one order, drawn at random, in training and both
only when it ranks; here both are trained, as they are used. Each has one score, where PairRM has one for each answer.

Shapes: B rows, N pairs. The two rows of a pair are neighbours, first the one with the chosen answer first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.algorithms.ops import token_tensors
from rayalign.algorithms.preference import order_free_logits
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts


class PairwiseRewardConfig(AlgorithmConfig):
    """Settings of pairwise reward modelling."""


class PairwiseReward(Algorithm[PairwiseRewardConfig]):
    """The cross-entropy of the probability that a pair was given, `-q log p - (1 - q) log(1 - p)`, mean over pairs."""

    Config = PairwiseRewardConfig
    unit = "pair"
    reads_pairs = True
    trains = ("reward",)

    @property
    def needs(self) -> frozenset[Need]:
        """Pairs with their preference, which may be a probability."""
        return frozenset({"preferences"})

    @property
    def metrics(self) -> frozenset[str]:
        """The loss; accuracy and margin as a reward model reports them; how often both orders agree."""
        names = ("accuracy", "longer_accuracy", "margin", "consistency")
        return frozenset({"loss/reward"} | {f"reward/{name}" for name in names})

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Tokens and preferences."""
        assert rollouts.preferences_B is not None
        group_B = rollouts.group_B
        assert bool((group_B[0::2] == group_B[1::2]).all()), "the two orders of a pair are neighbours"
        return Batch({**token_tensors(rollouts), "preferences_B": rollouts.preferences_B}, group_B)

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Pairs."""
        return len(minibatch) / 2

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The sum of the pairs' cross-entropies."""
        assert outputs.scores_B is not None
        straight_N, swapped_N = outputs.scores_B[0::2], outputs.scores_B[1::2]
        logits_N = order_free_logits(straight_N, swapped_N)
        probabilities_N = minibatch["preferences_B"][0::2]
        losses_N = -probabilities_N * logsigmoid(logits_N) - (1 - probabilities_N) * logsigmoid(-logits_N)
        total = losses_N.sum()
        lengths_B = minibatch["policy_mask_BT"].bool().sum(1)
        consistent_N = (straight_N > 0) & (swapped_N < 0) | (straight_N < 0) & (swapped_N > 0)
        metrics = {
            "loss/reward": _mean(losses_N),
            "reward/accuracy": _mean(_right(logits_N)),
            "reward/longer_accuracy": _mean(_right(lengths_B[0::2] - lengths_B[1::2])),
            "reward/margin": _mean(logits_N),
            "reward/consistency": _mean(consistent_N),
        }
        return LossSum(total, len(minibatch) / 2, metrics)


def _right(margins_N: Tensor) -> Tensor:
    """1 where the chosen answer is ahead, 1/2 where neither is."""
    return (margins_N.sign() + 1) / 2


def _mean(values_N: Tensor) -> Metric:
    """The mean over pairs, of which there may be none."""
    count = float(len(values_N))
    return Metric(values_N.detach().to(torch.float64).sum().item() / max(count, 1.0), count)


ALGORITHM = PairwiseReward
