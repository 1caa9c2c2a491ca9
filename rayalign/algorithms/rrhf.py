"""RRHF: rank responses to align language models with human feedback (Yuan 2023, arXiv 2304.05302).

The candidates of a prompt are ranked by their length-normalised log-probability; each pair in the wrong order costs
the difference, and the best-scored candidate is fine-tuned on besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.algorithms.ops import kl_estimate, rollout_metrics, token_tensors, units, zeroed
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts

SftReduction = Literal["sum", "mean"]


class RrhfConfig(AlgorithmConfig):
    """Settings of RRHF; the defaults are the paper's."""

    epochs: PositiveInt = 1
    """passes over each rollout batch (online)"""
    rank_weight: NonNegativeFloat = 1.0
    """of the pairs in the wrong order"""
    sft_weight: NonNegativeFloat = 1.0
    """of fine-tuning on the best candidate"""
    length_exponent: NonNegativeFloat = 1.0
    """log-probability / length ** this ranks a candidate"""
    sft_reduction: SftReduction = "sum"
    """over the tokens of the best candidate"""
    published_arithmetic: bool = False
    """as the authors' code computes, not as their paper says; see `rrhf_loss`"""
    kl_coefficient: NonNegativeFloat = 0.0
    """taken off each score: this times the answer's summed log-prob difference to the reference (k1)"""


@dataclass(frozen=True, slots=True)
class RRHFLoss:
    """The loss of one group, its two terms unweighted, and what it ranked by."""

    total: Tensor
    rank: Tensor
    sft: Tensor
    ranking_scores_K: Tensor
    """0 for an absent candidate"""
    best: int
    """the first of the best-scored candidates; -1 when all are absent"""


def rrhf_loss(
    logprobs_KT: Tensor,
    mask_KT: Tensor,
    scores_K: Tensor,
    *,
    length_exponent: float = 1.0,
    rank_weight: float = 1.0,
    sft_weight: float = 1.0,
    sft_reduction: SftReduction = "sum",
    published_arithmetic: bool = False,
) -> RRHFLoss:
    """With p_i = sum of log-probs / length ** length_exponent: rank = sum over score_i < score_j of max(0, p_i - p_j);
    sft = -(sum or mean of the best candidate's log-probs); total = rank_weight * rank + sft_weight * sft.

    Equal scores make no pair. A candidate is absent when its score is NaN or it has no token.

    `published_arithmetic`: the authors' code overwrites its label mask before it counts lengths, so that each candidate
    is divided by the length of the padded row, and the sft term is the mean over that row. The row is the T given here
    (prompt, answer and padding), in the place of the length and of `sft_reduction`.
    """
    lengths_K = mask_KT.bool().sum(1)
    present_K = ~scores_K.isnan() & (lengths_K > 0)
    sums_K = zeroed(zeroed(logprobs_KT, mask_KT).sum(1), present_K)
    if published_arithmetic:
        lengths_K = torch.full_like(lengths_K, mask_KT.shape[1])
    lengths_K = lengths_K.clamp(min=1).to(sums_K.dtype)
    ranking_K = sums_K / lengths_K**length_exponent
    pairs = _pairs(scores_K, present_K)
    rank = (ranking_K[None, :] - ranking_K[:, None])[pairs].clamp(min=0).sum()
    best, sft = -1, sums_K.sum() * 0
    if present_K.any():
        candidates = present_K.nonzero().squeeze(1)
        best = int(candidates[scores_K[candidates].argmax()])
        sft = -sums_K[best] / (lengths_K[best] if published_arithmetic or sft_reduction == "mean" else 1)
    return RRHFLoss(rank_weight * rank + sft_weight * sft, rank, sft, ranking_K, best)


def _pairs(scores_K: Tensor, present_K: Tensor) -> Tensor:
    """[j, i]: j is to be ranked above i."""
    return (scores_K[:, None] > scores_K[None, :]) & present_K[:, None] & present_K[None, :]


class Rrhf(Algorithm[RrhfConfig]):
    """Ranking and fine-tuning of the policy on groups of scored candidates, whatever wrote and scored them.

    `sum of max(0, p_i - p_j) over score_i < score_j`, plus `-log pi(best)`; p is log pi / length^length_exponent.
    """

    Config = RrhfConfig
    unit = "group"
    trains = ("policy",)

    @property
    def roles(self) -> frozenset[Role]:
        """The reference takes part where the KL counts."""
        return frozenset({"policy", "reference"} if self.config.kl_coefficient else {"policy"})

    @property
    def needs(self) -> frozenset[Need]:
        """Scores; log-probs of policy and reference where the KL counts."""
        needs: set[Need] = {"scores"}
        return frozenset(needs | {"logprobs", "reference_logprobs"} if self.config.kl_coefficient else needs)

    @property
    def passes(self) -> int:
        """Epochs over each rollout batch."""
        return self.config.epochs

    @property
    def metrics(self) -> frozenset[str]:
        """Both terms of the loss, and how the policy ranks the pairs; the KL where it counts."""
        names = super().metrics | {"reward/max", "loss/rank", "loss/sft", "rrhf/violations", "rrhf/pair_accuracy"}
        return names | {"kl/reference"} if self.config.kl_coefficient else names

    @property
    def reads_entropy(self) -> bool:
        """Log-probs are enough."""
        return False

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Candidates with a score, which the KL is taken off."""
        scores_B, metrics = rollouts.scores_B, rollout_metrics(rollouts)
        assert scores_B is not None
        present_B = ~scores_B.isnan()
        groups = [scores_B[present_B & (rollouts.group_B == g)] for g in units(rollouts.group_B[present_B])]
        if groups:
            maxima = torch.stack([g.max() for g in groups])
            metrics["reward/max"] = Metric(maxima.mean().item(), float(len(groups)))
        if self.config.kl_coefficient:
            assert rollouts.logprobs_BT is not None and rollouts.reference_logprobs_BT is not None
            kl_BT = kl_estimate(rollouts.logprobs_BT, rollouts.reference_logprobs_BT, "k1")
            kl_B = zeroed(kl_BT, rollouts.policy_mask_BT).sum(1)
            metrics["kl/reference"] = Metric(kl_B.mean().item(), float(len(kl_B)))
            scores_B = scores_B - self.config.kl_coefficient * kl_B
        tensors = {**token_tensors(rollouts), "scores_B": scores_B}
        batch = Batch(tensors, rollouts.group_B).rows(present_B.nonzero().squeeze(1))
        batch.metrics = metrics
        return batch

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Groups."""
        return float(len(units(minibatch.unit_B)))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The sum of `rrhf_loss` over groups."""
        assert outputs.logprobs_BT is not None
        losses, pairs, wrong, right = [], 0.0, 0.0, 0.0
        for unit in units(minibatch.unit_B):
            rows = (minibatch.unit_B == unit).nonzero().squeeze(1)
            loss = self._group(outputs.logprobs_BT, minibatch, rows)
            losses.append(loss)
            ranking_K, scores_K = loss.ranking_scores_K.detach(), minibatch["scores_B"][rows]
            gaps = (ranking_K[:, None] - ranking_K[None, :])[_pairs(scores_K, minibatch["policy_mask_BT"][rows].any(1))]
            pairs += gaps.numel()
            wrong += float((gaps < 0).sum())
            right += float((gaps > 0).sum())
        count = float(len(losses))
        metrics = {
            "loss/policy": Metric(_mean([x.total for x in losses]), count),
            "loss/rank": Metric(_mean([x.rank for x in losses]), count),
            "loss/sft": Metric(_mean([x.sft for x in losses]), count),
            "rrhf/violations": Metric(wrong / max(pairs, 1.0), pairs),
            "rrhf/pair_accuracy": Metric(right / max(pairs, 1.0), pairs),
        }
        if not losses:  # rows without a score leave none
            return LossSum(zeroed(outputs.logprobs_BT, minibatch["policy_mask_BT"]).sum(), count, metrics)
        return LossSum(torch.stack([x.total for x in losses]).sum(), count, metrics)

    def _group(self, logprobs_BT: Tensor, minibatch: Minibatch, rows: Tensor) -> RRHFLoss:
        """Cut to the group's own longest row, so that the published arithmetic does not depend on its neighbours."""
        width = int(minibatch["attention_mask_BT"][rows].sum(1).max())
        config = self.config
        return rrhf_loss(
            logprobs_BT[rows, :width],
            minibatch["policy_mask_BT"][rows, :width],
            minibatch["scores_B"][rows],
            length_exponent=config.length_exponent,
            rank_weight=config.rank_weight,
            sft_weight=config.sft_weight,
            sft_reduction=config.sft_reduction,
            published_arithmetic=config.published_arithmetic,
        )


def _mean(values: list[Tensor]) -> float:
    return torch.stack(values).detach().mean().item() if values else 0.0


ALGORITHM = Rrhf
