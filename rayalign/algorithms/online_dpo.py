"""Online DPO (Guo 2024, OAIF, arXiv 2402.04792): DPO on pairs of answers that the policy has just written.

The answers to a prompt are sorted by their scores. The best and the worst make a pair, the second best and the second
worst another one, and so on; answers of equal scores make none.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from rayalign.algorithms.base import Need
from rayalign.algorithms.dpo import Dpo, DpoConfig
from rayalign.algorithms.ops import ROLLOUT_METRICS, rollout_metrics, units
from rayalign.types import Batch, Metric, Rollouts


class OnlineDpoConfig(DpoConfig):
    """Settings of online DPO, beside those of DPO."""

    epochs: PositiveInt = 1
    """passes over each rollout batch"""


class OnlineDpo(Dpo):
    """`-log sigmoid(beta h)`, as DPO, on pairs that are made of scored candidates."""

    Config = OnlineDpoConfig
    config: OnlineDpoConfig

    @property
    def needs(self) -> frozenset[Need]:
        """Scores, in the place of preferences."""
        return frozenset({"scores", "reference_logprobs"})

    @property
    def learns_online_only(self) -> bool:
        """Its pairs are made of what the policy has just written; `dpo` learns from pairs of a file."""
        return True

    @property
    def passes(self) -> int:
        """Epochs over each rollout batch."""
        return self.config.epochs

    @property
    def fewest_candidates(self) -> int:
        """A pair."""
        return 2

    @property
    def metrics(self) -> frozenset[str]:
        """Those of the rollouts, and the share of prompts without a pair, as well."""
        return super().metrics | ROLLOUT_METRICS | {"reward/zero_variance"}

    def prepare(self, rollouts: Rollouts) -> Batch:
        """The pairs of each group, best score first; candidates without a partner are left out."""
        assert rollouts.scores_B is not None and rollouts.reference_logprobs_BT is not None
        groups = units(rollouts.group_B)
        pairs = [ranked_pairs((rollouts.group_B == group).nonzero()[:, 0], rollouts.scores_B) for group in groups]
        rows_N = torch.cat([*pairs, torch.empty(0, dtype=torch.long)])
        paired = replace(
            rollouts,
            input_ids_BT=rollouts.input_ids_BT[rows_N],
            attention_mask_BT=rollouts.attention_mask_BT[rows_N],
            policy_mask_BT=rollouts.policy_mask_BT[rows_N],
            reference_logprobs_BT=rollouts.reference_logprobs_BT[rows_N],
            scores_B=rollouts.scores_B[rows_N],
            group_B=torch.arange(len(rows_N)) // 2,
            preferences_B=torch.ones(len(rows_N), dtype=rollouts.reference_logprobs_BT.dtype),
        )
        batch = super().prepare(paired)
        unpaired = sum(not len(rows) for rows in pairs)
        batch.metrics = rollout_metrics(rollouts)
        batch.metrics["reward/zero_variance"] = Metric(unpaired / max(len(groups), 1), float(len(groups)))
        return batch


def ranked_pairs(rows_K: Tensor, scores_B: Tensor) -> Tensor:
    """Rows of pairs, each with a better and a worse score: best and worst, second best and second worst, ..."""
    present = rows_K[~scores_B[rows_K].isnan()]
    ranked = present[scores_B[present].argsort(descending=True, stable=True)]
    count = len(ranked) // 2
    pairs = torch.stack([ranked[:count], ranked.flip(0)[:count]], dim=1)
    return pairs[scores_B[pairs[:, 0]] > scores_B[pairs[:, 1]]].flatten()


ALGORITHM = OnlineDpo
