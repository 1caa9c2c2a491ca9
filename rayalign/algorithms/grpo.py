"""Group relative policy optimisation (Shao 2024, DeepSeekMath, arXiv 2402.03300, equations 3 and 4, section 4.1.2).

An answer's advantage is its score less the mean of its group, divided by the group's deviation; there is no critic. The
KL to the reference is a term of the loss. Settings make it Dr. GRPO (Liu 2025, arXiv 2503.20783: `no_std`, aggregation
seq-mean-token-sum-norm, no KL) or DAPO (Yu 2025, arXiv 2503.14476, equation 8: clip_high 0.28, aggregation token-mean,
`max_rejections`, no KL).
"""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.group_relative import GroupConfig, GroupRelative
from rayalign.algorithms.policy_gradient import kl_loss
from rayalign.types import Batch, Minibatch, Rollouts


class GrpoConfig(GroupConfig):
    """Settings of GRPO; the defaults are the paper's, but for the KL, which is DeepSeek-V3.2's."""

    kl_coefficient: NonNegativeFloat = 0.04
    """beta of the KL in the loss; 0: no reference model"""
    unbiased_kl: bool = True
    """k3 times the policy ratio, with the gradient of KL(policy || reference), as DeepSeek-V3.2 has it in equation 7;
    false: k3 alone, as GRPO's paper has it"""
    aggregation: ops.Aggregation = "seq-mean-token-mean"
    no_std: bool = False
    """advantages are not divided by the group's deviation"""


class Grpo(GroupRelative[GrpoConfig]):
    """A policy trained on scores relative to those of its group.

    `-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coefficient r k3` for each token, r its ratio to the old
    policy, `A = (score - mean) / deviation` of the group. With `no_std` it is not divided; without `unbiased_kl` the
    KL is k3 alone.
    """

    Config = GrpoConfig

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Advantages within groups; every row has a score."""
        scores_B, state = self.clipped_scores(rollouts)
        kind: ops.AdvantageKind = "grpo-no-std" if self.config.no_std else "grpo"
        batch = self.relative_batch(rollouts, scores_B, kind=kind)
        if self.config.kl_coefficient:
            assert rollouts.reference_logprobs_BT is not None
            reference_BT = ops.zeroed(rollouts.reference_logprobs_BT, rollouts.policy_mask_BT)
            batch.tensors["reference_logprobs_BT"] = reference_BT
        batch.state = state
        return batch

    def token_loss(self, logprobs_BT: Tensor, minibatch: Minibatch) -> Tensor:
        """The clipped loss and the KL to the reference."""
        loss_BT = super().token_loss(logprobs_BT, minibatch)
        if not self.config.kl_coefficient:
            return loss_BT
        old_BT, reference_BT = minibatch["logprobs_BT"], minibatch["reference_logprobs_BT"]
        kl_BT = kl_loss(logprobs_BT, old_BT, reference_BT, unbiased=self.config.unbiased_kl)
        return loss_BT + self.config.kl_coefficient * kl_BT


ALGORITHM = Grpo
