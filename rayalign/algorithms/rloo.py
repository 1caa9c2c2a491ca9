"""REINFORCE leave-one-out (Ahmadian 2024, Back to Basics, arXiv 2402.14740, sections 2 and 3; Kool 2019).

An answer is one action. Its reward is the score less beta times log(pi / reference) of the whole answer, its baseline
the mean reward of the other answers to the same prompt; there is no critic.
"""

from __future__ import annotations

from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.group_relative import GroupConfig, GroupRelative
from rayalign.types import Batch, Minibatch, Rollouts


class RlooConfig(GroupConfig):
    """Settings of RLOO. The paper does not clip (clip_low 1, clip_high 1e9); a first update is the same."""

    aggregation: ops.Aggregation = "seq-mean-token-mean"
    """the loss of an answer stands on each of its tokens, so this is the mean over answers"""
    correction_kind: ops.ImportanceKind = "sequence"


class Rloo(GroupRelative[RlooConfig]):
    """A policy trained on rewards relative to the other answers of the group.

    `-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)` for each answer, r its ratio to the old policy, `A = R - mean of
    the others' R`, `R = score - beta * log(pi / reference)`.
    """

    Config = RlooConfig

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Rewards with their KL, and advantages within groups; every row has a score."""
        scores_B, state = self.clipped_scores(rollouts)
        rewards_B = scores_B - self.config.kl_coefficient * self.reference_kl(rollouts).sum(1)
        batch = self.relative_batch(rollouts, rewards_B, kind="rloo")
        batch.state = state
        return batch

    def log_ratio(self, logprobs_BT: Tensor, minibatch: Minibatch) -> Tensor:
        """Of the whole answer, on each of its tokens."""
        token_ratio_BT = super().log_ratio(logprobs_BT, minibatch)
        return token_ratio_BT.sum(1, keepdim=True).expand_as(token_ratio_BT)


ALGORITHM = Rloo
