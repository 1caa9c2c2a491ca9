"""Proximal policy optimisation (Schulman 2017) with a separate critic, after InstructGPT and its reproductions.

Token t is rewarded by -beta * (log pi - log reference), the last token by the score besides; advantages by GAE; both
losses clipped. Log-probs have three names: behaviour (the engine that wrote the token), proximal (the trainer before
the first update of this iteration: the `logprobs_BT` of a batch), and current (`outputs.logprobs_BT`).
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.types import Batch, LossSum, Metric, Metrics, Minibatch, Outputs, Role, Rollouts

MAX_LOG_RATIO = 60.0
"""keeps exp and its gradient finite in float32; the clipped objective is far away from here"""


class PpoConfig(AlgorithmConfig):
    """Settings of PPO."""

    epochs: PositiveInt = 2
    """passes over each rollout batch"""
    kl_coefficient: NonNegativeFloat = 0.05
    """beta; 0: no reference model. With `kl_target` only where it starts"""
    kl_target: PositiveFloat | None = None
    """KL per answer [nats] that beta is led towards; None: beta stays"""
    kl_horizon: PositiveFloat = 10000.0
    """answers over which beta follows"""
    gamma: float = Field(1.0, ge=0.0, le=1.0)
    lam: float = Field(0.95, ge=0.0, le=1.0)
    clip_low: float = Field(0.2, ge=0.0, le=1.0)
    clip_high: NonNegativeFloat = 0.2
    dual_clip: float | None = Field(None, gt=1.0)
    """bound c of the loss at c * |advantage| where the advantage is negative"""
    value_clip: PositiveFloat | None = 0.2
    whiten_advantages: bool = True
    normalise_scores: bool = False
    """by the running mean and deviation of all scores so far; before `missing_eos`, which is before `score_clip`"""
    missing_eos: ops.MissingEos = "keep"
    """what becomes of the score of an answer that was cut"""
    missing_eos_value: float = -1.0
    """put in the place of the score (replace), or taken off it (subtract)"""
    score_clip: PositiveFloat | None = None
    aggregation: ops.Aggregation = "token-mean"
    """of the policy loss; the critic's is always over tokens"""
    max_length: PositiveInt | None = None
    """the constant of seq-mean-token-sum-norm [tokens]"""
    correction_cap: float | None = Field(2.0, ge=1.0)
    """importance weights proximal / behaviour for stale answers are capped here; None: not corrected"""
    correction_kind: ops.ImportanceKind = "token-truncate"
    entropy_coefficient: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> PpoConfig:
        if self.kl_target is not None and self.kl_coefficient == 0:
            raise ValueError("kl_target needs a kl_coefficient above 0 to start from")
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
    """max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) for each token, r = exp(new - old).

    With `dual_clip` c (Ye 2020) at most c * |A| where A < 0. r counts as exp(60) above that.
    """
    ratio = (logprobs_BT - old_logprobs_BT).clamp(max=MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantages_BT * ratio, -advantages_BT * clipped)
    if dual_clip is not None:
        loss = torch.where(advantages_BT < 0, torch.minimum(loss, -dual_clip * advantages_BT), loss)
    return loss


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, *, clip: float | None) -> Tensor:
    """Half the squared error of each token, or of the value kept within `clip` of the old one where that is larger."""
    loss = (values_BT - returns_BT).square()
    if clip is not None:
        kept = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        loss = torch.maximum(loss, (kept - returns_BT).square())
    return loss / 2


class Ppo(Algorithm[PpoConfig]):
    """Policy and critic, on advantages made from the score and the KL to the reference."""

    Config = PpoConfig
    unit = "sequence"
    trains = ("policy", "critic")

    @property
    def roles(self) -> frozenset[Role]:
        """The reference takes part where the KL counts."""
        roles: tuple[Role, ...] = ("policy", "critic", "reward")
        return frozenset((*roles, "reference") if self.config.kl_coefficient else roles)

    @property
    def needs(self) -> frozenset[Need]:
        """Log-probs, of the engine too, values and scores; the reference's where the KL counts."""
        needs: set[Need] = {"behaviour_logprobs", "logprobs", "values", "scores"}
        return frozenset(needs | {"reference_logprobs"} if self.config.kl_coefficient else needs)

    @property
    def passes(self) -> int:
        """PPO epochs."""
        return self.config.epochs

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Rewards, advantages, returns and importance weights; every row has a score."""
        config, mask = self.config, rollouts.policy_mask_BT.bool()
        assert rollouts.logprobs_BT is not None and rollouts.values_BT is not None
        logprobs, values = ops.zeroed(rollouts.logprobs_BT, mask), ops.zeroed(rollouts.values_BT, mask)
        scores_B, state = self._scores(rollouts)
        kl_BT = self._kl(rollouts, mask)
        beta = rollouts.state.get("kl_beta", config.kl_coefficient)
        rewards_BT = ops.shape_rewards(scores_B, kl_BT, mask, beta=beta, score_clip=config.score_clip)
        advantages, returns = ops.gae(rewards_BT, values, mask, gamma=config.gamma, lam=config.lam)
        metrics = ops.rollout_metrics(rollouts)
        metrics["critic/explained_variance"] = _explained_variance(values, returns, mask)
        if config.kl_coefficient:
            kl = kl_BT.sum(1).mean().item()
            metrics |= {"kl/reference": Metric(kl, float(len(mask))), "kl/beta": Metric(beta)}
            if config.kl_target is not None:
                state["kl_beta"] = ops.AdaptiveKL(beta, config.kl_target, config.kl_horizon).update(kl, len(mask))
        tensors = {
            **ops.token_tensors(rollouts),
            "logprobs_BT": logprobs,
            "values_BT": values,
            "advantages_BT": ops.masked_whiten(advantages, mask) if config.whiten_advantages else advantages,
            "returns_BT": returns,
            "weights_BT": self._weights(rollouts, logprobs, mask),
        }
        return Batch(tensors, torch.arange(len(mask)), metrics, state)

    def _scores(self, rollouts: Rollouts) -> tuple[Tensor, dict[str, float]]:
        scores_B, state = rollouts.scores_B, dict[str, float]()
        assert scores_B is not None and not scores_B.isnan().any(), "rows without a score are dropped before"
        if self.config.normalise_scores:
            saved = (rollouts.state.get(f"score_{name}", 0.0) for name in ("count", "mean", "squares"))
            moments = ops.RunningMoments(*saved)
            moments.update(scores_B)
            scores_B = moments.normalize(scores_B)
            state = {f"score_{name}": value for name, value in asdict(moments).items()}
        if rollouts.ended_B is not None:
            policy, value = self.config.missing_eos, self.config.missing_eos_value
            scores_B = ops.missing_eos_scores(scores_B, rollouts.ended_B, policy=policy, value=value)
        return scores_B, state

    def _kl(self, rollouts: Rollouts, mask: Tensor) -> Tensor:
        assert rollouts.logprobs_BT is not None
        if not self.config.kl_coefficient:
            return torch.zeros_like(rollouts.logprobs_BT)
        assert rollouts.reference_logprobs_BT is not None
        return ops.zeroed(ops.kl_estimate(rollouts.logprobs_BT, rollouts.reference_logprobs_BT, "k1"), mask)

    def _weights(self, rollouts: Rollouts, logprobs: Tensor, mask: Tensor) -> Tensor:
        """1 for what the present weights wrote: there engine and trainer differ by rounding only."""
        cap, kind, ones = self.config.correction_cap, self.config.correction_kind, mask.to(logprobs.dtype)
        if cap is None or rollouts.staleness_B is None:
            return ones
        assert rollouts.behaviour_logprobs_BT is not None
        weights = ops.importance_weights(logprobs, rollouts.behaviour_logprobs_BT, mask, cap=cap, kind=kind)
        return torch.where(rollouts.staleness_B[:, None] > 0, weights, ones)

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Tokens, or for the policy what its aggregation counts."""
        mode: ops.Aggregation = self.config.aggregation if role == "policy" else "token-mean"
        return float(ops.aggregate_count(minibatch["policy_mask_BT"], mode))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The clipped policy loss (less the entropy), or the clipped value loss."""
        count = self.normaliser(role, minibatch)
        total, metrics = self._policy(outputs, minibatch) if role == "policy" else self._critic(outputs, minibatch)
        metrics[f"loss/{role}"] = Metric(total.item() / max(count, 1.0), count)
        return LossSum(total, count, metrics)

    def _policy(self, outputs: Outputs, minibatch: Minibatch) -> tuple[Tensor, Metrics]:
        config, mask = self.config, minibatch["policy_mask_BT"].bool()
        assert outputs.logprobs_BT is not None
        new, old = ops.zeroed(outputs.logprobs_BT, mask), minibatch["logprobs_BT"]
        advantages = minibatch["advantages_BT"]
        low, high, dual = config.clip_low, config.clip_high, config.dual_clip
        loss_BT = policy_loss(new, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)
        loss_BT = loss_BT * minibatch["weights_BT"]
        metrics = self._policy_metrics(new.detach(), old, advantages, mask)
        if outputs.entropy_BT is not None:
            metrics["policy/entropy"] = ops.mean_metric(outputs.entropy_BT, mask)
        if config.entropy_coefficient:
            assert outputs.entropy_BT is not None
            loss_BT = loss_BT - config.entropy_coefficient * ops.zeroed(outputs.entropy_BT, mask)
        return ops.aggregate_sum(loss_BT, mask, config.aggregation, max_length=config.max_length), metrics

    def _policy_metrics(self, new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Metrics:
        """A token counts as clipped where the clip takes its gradient away."""
        ratio = (new - old).exp()
        above = (ratio > 1 + self.config.clip_high) & (advantages > 0)
        below = (ratio < 1 - self.config.clip_low) & (advantages < 0)
        metrics = {
            "policy/clip_fraction": ops.mean_metric((above | below).to(ratio.dtype), mask),
            "policy/approx_kl": ops.mean_metric(ops.kl_estimate(old, new, "k3"), mask),
        }
        if mask.any():
            metrics["policy/ratio_min"] = Metric(ratio[mask].min().item(), reduction="min")
            metrics["policy/ratio_max"] = Metric(ratio[mask].max().item(), reduction="max")
        return metrics

    def _critic(self, outputs: Outputs, minibatch: Minibatch) -> tuple[Tensor, Metrics]:
        assert outputs.values_BT is not None
        mask = minibatch["policy_mask_BT"].bool()
        values, old, returns = ops.zeroed(outputs.values_BT, mask), minibatch["values_BT"], minibatch["returns_BT"]
        return ops.aggregate_sum(value_loss(values, old, returns, clip=self.config.value_clip), mask, "token-mean"), {}


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Metric:
    """1 - var(returns - values) / var(returns); 0 where the returns do not vary."""
    total = ops.masked_var(returns, mask).item()
    left = ops.masked_var(returns - values, mask).item()
    return Metric(1 - left / total if total > 0 else 0.0, float(mask.sum()))


ALGORITHM = Ppo
