"""What policy-gradient methods share: scores, the KL to a reference, importance weights and the clipped objective.

A method adds its advantages (`prepare`), and where it differs its ratio or a further term of the loss. Log-probs have
three names: behaviour (the engine that wrote the token), proximal (the trainer before the first update of this
iteration: the `logprobs_BT` of a batch), and current (`outputs.logprobs_BT`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar, TypeVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.types import Batch, LossSum, Metric, Metrics, Minibatch, Outputs, Role, Rollouts

MAX_LOG_RATIO = 60.0
"""keeps exp and its gradient finite in float32; the clipped objective is far away from here"""


class PolicyGradientConfig(AlgorithmConfig):
    """Settings that every policy-gradient method has."""

    epochs: PositiveInt = 1
    """passes over each rollout batch"""
    kl_coefficient: NonNegativeFloat = 0.05
    """beta; 0: no reference model"""
    clip_low: float = Field(0.2, ge=0.0, le=1.0)
    """how far the ratio of a token may fall below 1"""
    clip_high: NonNegativeFloat = 0.2
    """how far the ratio of a token may rise above 1"""
    dual_clip: float | None = Field(None, gt=1.0)
    """bound c of the loss at c * |advantage| where the advantage is negative"""
    normalise_scores: bool = False
    """by the running mean and deviation of all scores so far; before `missing_eos`, which is before `score_clip`"""
    missing_eos: ops.MissingEos = "keep"
    """the score of an answer that was cut: keep, replace, subtract"""
    missing_eos_value: float = -1.0
    """put in the place of the score (replace), or taken off it (subtract)"""
    score_clip: PositiveFloat | None = None
    """scores are cut to within this distance of 0; null: they stay"""
    aggregation: ops.Aggregation = "token-mean"
    """of the policy loss"""
    max_length: PositiveInt | None = None
    """the constant of seq-mean-token-sum-norm [tokens]"""
    correction_cap: float | None = Field(2.0, ge=1.0)
    """importance weights proximal / behaviour for stale answers are capped here; null: not corrected"""
    correction_kind: ops.ImportanceKind = "token-truncate"
    """how those weights are made: of each token or of the answer, capped or left out above the cap"""
    entropy_coefficient: NonNegativeFloat = 0.0
    """weight of the entropy in the objective"""

    @model_validator(mode="after")
    def _length_is_there(self) -> PolicyGradientConfig:
        if self.aggregation == "seq-mean-token-sum-norm" and self.max_length is None:
            raise ValueError("aggregation seq-mean-token-sum-norm needs max_length, such as the sampling's max_tokens")
        return self


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) for each token, r = exp(new - old) (Schulman 2017, eq. 7).

    With `dual_clip` c (Ye 2020) at most c * |A| where A < 0. r counts as exp(60) above that.
    """
    ratio = (logprobs_BT - old_logprobs_BT).clamp(max=MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantages_BT * ratio, -advantages_BT * clipped)
    if dual_clip is not None:
        loss = torch.where(advantages_BT < 0, torch.minimum(loss, -dual_clip * advantages_BT), loss)
    return loss


def kl_loss(logprobs_BT: Tensor, old_logprobs_BT: Tensor, ref_logprobs_BT: Tensor, *, unbiased: bool = True) -> Tensor:
    """The KL to the reference as a loss term: k3 of each token (Shao 2024, eq. 4), never negative.

    k3 alone has the gradient of KL(reference || policy). `unbiased` multiplies it by exp(new - old), whose gradient at
    new = old is that of KL(policy || reference) (DeepSeek-V3.2, eq. 7). Log-ratios count as 30 above that.
    """
    limit = MAX_LOG_RATIO / 2
    k3_BT = ops.kl_estimate(logprobs_BT.maximum(ref_logprobs_BT - limit), ref_logprobs_BT, "k3")
    if not unbiased:
        return k3_BT
    return (logprobs_BT - old_logprobs_BT).clamp(max=limit).exp() * k3_BT


POLICY_METRICS = frozenset(
    f"policy/{name}" for name in ("clip_fraction", "approx_kl", "ratio_min", "ratio_max", "entropy")
)
C = TypeVar("C", bound=PolicyGradientConfig)


class PolicyGradient(Algorithm[C]):
    """A policy trained by the clipped objective on advantages that the method makes in `prepare`."""

    unit = "sequence"
    trains: ClassVar[tuple[Role, ...]] = ("policy",)

    @property
    def roles(self) -> frozenset[Role]:
        """The reference takes part where the KL counts."""
        roles: tuple[Role, ...] = (*self.trains, "reward")
        return frozenset((*roles, "reference") if self.config.kl_coefficient else roles)

    @property
    def needs(self) -> frozenset[Need]:
        """Log-probs, of the engine too, and scores; the reference's log-probs where the KL counts."""
        needs: set[Need] = {"behaviour_logprobs", "logprobs", "scores"}
        return frozenset(needs | {"reference_logprobs"} if self.config.kl_coefficient else needs)

    @property
    def passes(self) -> int:
        """Epochs over each rollout batch."""
        return self.config.epochs

    @property
    def metrics(self) -> frozenset[str]:
        """Those of the policy's objective; of the reference only where the KL counts."""
        names = super().metrics | POLICY_METRICS
        return names | {"kl/reference"} if self.config.kl_coefficient else names

    @property
    def differentiates_entropy(self) -> bool:
        """Where it counts."""
        return self.config.entropy_coefficient > 0

    @property
    def takes_engine_logprobs(self) -> bool:
        """The proximal log-probs are constants of the objective, whoever computed them."""
        return True

    def batch(self, rollouts: Rollouts, advantages_BT: Tensor) -> Batch:
        """What the policy loss reads, and the metrics of the rollouts."""
        mask = rollouts.policy_mask_BT.bool()
        assert rollouts.logprobs_BT is not None
        logprobs = ops.zeroed(rollouts.logprobs_BT, mask)
        tensors = {
            **ops.token_tensors(rollouts),
            "logprobs_BT": logprobs,
            "advantages_BT": advantages_BT,
            "weights_BT": self._correction(rollouts, logprobs, mask),
        }
        metrics = ops.rollout_metrics(rollouts)
        if self.config.kl_coefficient:
            kl = self.reference_kl(rollouts).sum(1).mean().item()
            metrics["kl/reference"] = Metric(kl, float(len(mask)))
        return Batch(tensors, torch.arange(len(mask)), metrics)

    def scores(self, rollouts: Rollouts) -> tuple[Tensor, dict[str, float]]:
        """Normalised scores with those of cut answers set as configured, and the state of the running moments."""
        scores_B, state = rollouts.scores_B, dict[str, float]()
        assert scores_B is not None and not scores_B.isnan().any(), "rows without a score are dropped before"
        if self.config.normalise_scores:
            saved = (rollouts.state.get(f"score_{name}", 0.0) for name in ("count", "mean", "squares"))
            moments = ops.RunningMoments(*saved)
            moments.update(scores_B)
            scores_B = moments.normalize(scores_B)
            state = {f"score_{name}": value for name, value in asdict(moments).items()}
        if rollouts.ended_B is not None:
            scores_B = self.missing_eos(scores_B, rollouts.ended_B)
        return scores_B, state

    def missing_eos(self, scores_B: Tensor, ended_B: Tensor) -> Tensor:
        """Scores with those of cut answers set as configured."""
        policy, value = self.config.missing_eos, self.config.missing_eos_value
        return ops.missing_eos_scores(scores_B, ended_B, policy=policy, value=value)

    def reference_kl(self, rollouts: Rollouts) -> Tensor:
        """k1 of each token to the reference [nats]; 0 without one."""
        assert rollouts.logprobs_BT is not None
        if not self.config.kl_coefficient:
            return torch.zeros_like(rollouts.logprobs_BT)
        assert rollouts.reference_logprobs_BT is not None
        kl_BT = ops.kl_estimate(rollouts.logprobs_BT, rollouts.reference_logprobs_BT, "k1")
        return ops.zeroed(kl_BT, rollouts.policy_mask_BT)

    def _correction(self, rollouts: Rollouts, logprobs: Tensor, mask: Tensor) -> Tensor:
        """1 for what the present weights wrote: there engine and trainer differ by rounding only."""
        cap, kind, ones = self.config.correction_cap, self.config.correction_kind, mask.to(logprobs.dtype)
        if cap is None or rollouts.staleness_B is None:
            return ones
        assert rollouts.behaviour_logprobs_BT is not None
        weights = ops.importance_weights(logprobs, rollouts.behaviour_logprobs_BT, mask, cap=cap, kind=kind)
        return torch.where(rollouts.staleness_B[:, None] > 0, weights, ones)

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """What the aggregation counts."""
        return float(ops.aggregate_count(minibatch["policy_mask_BT"], self.config.aggregation))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The clipped policy loss, less the entropy."""
        count = self.normaliser("policy", minibatch)
        config, mask = self.config, minibatch["policy_mask_BT"].bool()
        assert outputs.logprobs_BT is not None
        logprobs_BT = ops.zeroed(outputs.logprobs_BT, mask)
        loss_BT = self.token_loss(logprobs_BT, minibatch)
        metrics = self._policy_metrics(logprobs_BT.detach(), minibatch)
        if outputs.entropy_BT is not None:
            metrics["policy/entropy"] = ops.mean_metric(outputs.entropy_BT, mask)
        if config.entropy_coefficient:
            assert outputs.entropy_BT is not None
            loss_BT = loss_BT - config.entropy_coefficient * ops.zeroed(outputs.entropy_BT, mask)
        total = ops.aggregate_sum(loss_BT, mask, config.aggregation, max_length=config.max_length)
        metrics["loss/policy"] = Metric(total.item() / max(count, 1.0), count)
        return LossSum(total, count, metrics)

    def token_loss(self, logprobs_BT: Tensor, minibatch: Minibatch) -> Tensor:
        """The clipped loss of each token, times its importance weight."""
        log_ratio = self.log_ratio(logprobs_BT, minibatch)
        low, high, dual = self.config.clip_low, self.config.clip_high, self.config.dual_clip
        old, advantages = torch.zeros_like(log_ratio), minibatch["advantages_BT"]
        loss_BT = policy_loss(log_ratio, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)
        return loss_BT * minibatch["weights_BT"]

    def log_ratio(self, logprobs_BT: Tensor, minibatch: Minibatch) -> Tensor:
        """log(current / proximal) that the objective clips: of each token by itself."""
        return logprobs_BT - minibatch["logprobs_BT"]

    def _policy_metrics(self, logprobs_BT: Tensor, minibatch: Minibatch) -> Metrics:
        """A token counts as clipped where the clip takes its gradient away."""
        mask, advantages = minibatch["policy_mask_BT"].bool(), minibatch["advantages_BT"]
        ratio = self.log_ratio(logprobs_BT, minibatch).exp()
        above = (ratio > 1 + self.config.clip_high) & (advantages > 0)
        below = (ratio < 1 - self.config.clip_low) & (advantages < 0)
        approx_kl = ops.kl_estimate(minibatch["logprobs_BT"], logprobs_BT, "k3")
        metrics = {
            "policy/clip_fraction": ops.mean_metric((above | below).to(ratio.dtype), mask),
            "policy/approx_kl": ops.mean_metric(approx_kl, mask),
        }
        if mask.any():
            metrics["policy/ratio_min"] = Metric(ratio[mask].min().item(), reduction="min")
            metrics["policy/ratio_max"] = Metric(ratio[mask].max().item(), reduction="max")
        return metrics
