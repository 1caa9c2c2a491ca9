"""REINFORCE++ (Hu 2025, arXiv 2501.03262): PPO's clipped objective without a critic, advantages normalised globally.

The advantage of token t is the score less beta times the log-ratios to the reference from t on, normalised by mean and
deviation over all tokens of the batch. With `baseline` the score is taken relative to its group first
(REINFORCE++-baseline), for several answers to a prompt.
"""

from __future__ import annotations

import torch
from pydantic import Field

from rayalign.algorithms import ops
from rayalign.algorithms.group_relative import relative_advantages
from rayalign.algorithms.policy_gradient import PolicyGradient, PolicyGradientConfig
from rayalign.types import Batch, Rollouts


class ReinforcePpConfig(PolicyGradientConfig):
    """Settings of REINFORCE++."""

    baseline: bool = False
    """scores less the mean of their group; needs two candidates or more"""
    gamma: float = Field(1.0, ge=0.0, le=1.0)
    """discount of a reward for each later token"""


class ReinforcePp(PolicyGradient[ReinforcePpConfig]):
    """PPO's policy loss on returns that are normalised over the whole batch.

    `A_t = (G_t - mean) / deviation`, `G_t = score - beta * sum of log(pi / reference) from t on`. With a `gamma` below
    1 each reward is discounted by gamma for every token that lies between.
    """

    Config = ReinforcePpConfig

    @property
    def fewest_candidates(self) -> int:
        """With a baseline, one alone has no advantage."""
        return 2 if self.config.baseline else 1

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Returns from each token on, whitened over all tokens; every row has a score."""
        config, mask = self.config, rollouts.policy_mask_BT.bool()
        scores_B, state = self.scores(rollouts)
        if config.score_clip is not None:
            scores_B = scores_B.clamp(-config.score_clip, config.score_clip)
        if config.baseline:
            scores_B = relative_advantages(scores_B, rollouts.group_B, kind="grpo-no-std")
        kl_BT = self.reference_kl(rollouts)
        rewards_BT = ops.shape_rewards(scores_B, kl_BT, mask, beta=config.kl_coefficient)
        # With values of 0 and lambda 1, generalised advantages are the discounted returns.
        returns_BT, _ = ops.gae(rewards_BT, torch.zeros_like(rewards_BT), mask, gamma=config.gamma, lam=1.0)
        batch = self.batch(rollouts, ops.masked_whiten(returns_BT, mask))
        batch.state = state
        return batch


ALGORITHM = ReinforcePp
"""named `reinforce_pp` in a job"""
