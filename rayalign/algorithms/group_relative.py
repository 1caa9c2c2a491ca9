"""What methods share that compare the answers of a group, such as GRPO and RLOO: relative advantages, without a critic.

Shapes: B sequences, T tokens, P prompts, K candidates of a prompt.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayalign.algorithms import ops
from rayalign.algorithms.policy_gradient import PolicyGradient, PolicyGradientConfig
from rayalign.types import Batch, Group, Metric, Rollouts


def relative_advantages(scores_B: Tensor, group_B: Tensor, *, kind: ops.AdvantageKind) -> Tensor:
    """`ops.group_advantages` for rows whose groups, neighbours of each other, may differ in size."""
    _, sizes_P = torch.unique_consecutive(group_B, return_counts=True)
    groups = list(torch.split(scores_B, sizes_P.tolist()))
    scores_PK = pad_sequence(groups, batch_first=True, padding_value=math.nan)
    advantages_PK = ops.group_advantages(scores_PK, kind=kind)
    present_PK = torch.arange(scores_PK.shape[1], device=sizes_P.device) < sizes_P[:, None]
    return advantages_PK[present_PK]


class GroupConfig(PolicyGradientConfig):
    """Settings of methods that compare the answers of a group."""

    max_rejections: NonNegativeInt = 0
    """groups of equal scores that each place of an iteration may replace (DAPO's dynamic sampling); 0: they stay"""


G = TypeVar("G", bound=GroupConfig)


class GroupRelative(PolicyGradient[G]):
    """A policy trained on rewards relative to those of the other answers to the same prompt; there is no critic."""

    @property
    def fewest_candidates(self) -> int:
        """One alone has no advantage."""
        return 2

    @property
    def metrics(self) -> frozenset[str]:
        """The share of groups without an advantage as well."""
        return super().metrics | {"reward/zero_variance"}

    @property
    def max_rejections(self) -> int:
        """As configured."""
        return self.config.max_rejections

    def reject(self, group: Group) -> str | None:
        """Equal scores give no advantage; compared are those that `prepare` trains on."""
        different_scores = torch.unique(self._compared(group), dim=0)
        return "all scores are equal" if len(different_scores) <= 1 else None

    def _compared(self, group: Group) -> Tensor:
        """What is equal where two present scores are, after `missing_eos` and `score_clip` [K, 2].

        The moments of `normalise_scores` are those of a whole iteration, which is not there yet. Until then a cut
        answer whose score is changed differs from one that ended, and nothing is clipped.
        """
        values = [math.nan if score.value is None else score.value for score in group.scores]
        ended_K = torch.tensor([t.finish_reason == "stop" for t in group.trajectories])
        scores_K = self.missing_eos(torch.tensor(values), ended_K)
        changed_K = torch.zeros_like(scores_K)
        if not self.config.normalise_scores:
            scores_K = self._clipped(scores_K)
        elif self.config.missing_eos != "keep":
            changed_K = (~ended_K).to(scores_K.dtype)
        return torch.stack([scores_K, changed_K], dim=1)[~scores_K.isnan()]

    def relative_batch(self, rollouts: Rollouts, rewards_B: Tensor, *, kind: ops.AdvantageKind) -> Batch:
        """`batch` with the advantage of an answer within its group on each of its tokens."""
        advantages_B = relative_advantages(rewards_B, rollouts.group_B, kind=kind)
        advantages_BT = advantages_B[:, None].expand(rollouts.policy_mask_BT.shape)
        batch = self.batch(rollouts, ops.zeroed(advantages_BT, rollouts.policy_mask_BT))
        groups = ops.units(rollouts.group_B)
        trained = ops.units(rollouts.group_B[advantages_B != 0])
        share = 1 - len(trained) / max(len(groups), 1)
        batch.metrics["reward/zero_variance"] = Metric(share, float(len(groups)))
        return batch

    def clipped_scores(self, rollouts: Rollouts) -> tuple[Tensor, dict[str, float]]:
        """`scores` within +-score_clip."""
        scores_B, state = self.scores(rollouts)
        return self._clipped(scores_B), state

    def _clipped(self, scores_B: Tensor) -> Tensor:
        limit = self.config.score_clip
        return scores_B if limit is None else scores_B.clamp(-limit, limit)
