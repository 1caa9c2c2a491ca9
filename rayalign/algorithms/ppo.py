"""PPO: proximal policy optimisation (Schulman 2017, arXiv 1707.06347) with a separate critic, after InstructGPT.

Token t is rewarded by -beta * (log pi - log reference), the last token by the score besides; advantages by GAE; both
losses clipped.
"""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.base import Need
from rayalign.algorithms.policy_gradient import PolicyGradient, PolicyGradientConfig, policy_loss
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts

__all__ = ["ALGORITHM", "Ppo", "PpoConfig", "policy_loss", "value_loss"]


class PpoConfig(PolicyGradientConfig):
    """Settings of PPO; `kl_coefficient` is only the start where there is a `kl_target`."""

    epochs: PositiveInt = 2
    """passes over each rollout batch"""
    kl_target: PositiveFloat | None = None
    """KL per answer [nats] that beta is led towards; null: beta stays"""
    kl_horizon: PositiveFloat = 10000.0
    """answers over which beta follows"""
    gamma: float = Field(1.0, ge=0.0, le=1.0)
    """discount of a reward for each later token"""
    lam: float = Field(0.95, ge=0.0, le=1.0)
    """lambda of generalised advantages"""
    value_clip: PositiveFloat | None = 0.2
    """how far a value may move from the old one before its loss stops falling; null: no clipping"""
    whiten_advantages: bool = True
    """advantages have mean 0 and deviation 1 over the batch"""

    @model_validator(mode="after")
    def _beta_has_a_start(self) -> PpoConfig:
        if self.kl_target is not None and self.kl_coefficient == 0:
            raise ValueError("kl_target needs a kl_coefficient above 0 to start from")
        return self


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, *, clip: float | None) -> Tensor:
    """Half the squared error of each token, or of the value clipped to within `clip` of the old, whichever is larger.

    The clipping is that of the authors' implementation (openai/baselines, ppo2).
    """
    loss = (values_BT - returns_BT).square()
    if clip is not None:
        clipped = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        loss = loss.maximum((clipped - returns_BT).square())
    return loss / 2


class Ppo(PolicyGradient[PpoConfig]):
    """Policy and critic, on advantages made from the score and the KL to the reference.

    The policy's loss is `-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)` for each token, r its ratio to the old
    policy and A by GAE; the critic's is `max((v - R)^2, (clip(v, old - c, old + c) - R)^2) / 2`, R the return.
    """

    Config = PpoConfig
    trains = ("policy", "critic")

    @property
    def needs(self) -> frozenset[Need]:
        """Values as well."""
        return super().needs | {"values"}

    @property
    def metrics(self) -> frozenset[str]:
        """The critic's as well, and beta where the KL counts."""
        names = super().metrics | {"critic/explained_variance"}
        return names | {"kl/beta"} if self.config.kl_coefficient else names

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Rewards, advantages, returns and importance weights; every row has a score."""
        config, mask = self.config, rollouts.policy_mask_BT.bool()
        assert rollouts.values_BT is not None
        values = ops.zeroed(rollouts.values_BT, mask)
        scores_B, state = self.scores(rollouts)
        kl_BT = self.reference_kl(rollouts)
        beta = rollouts.state.get("kl_beta", config.kl_coefficient)
        rewards_BT = ops.shape_rewards(scores_B, kl_BT, mask, beta=beta, score_clip=config.score_clip)
        advantages, returns = ops.gae(rewards_BT, values, mask, gamma=config.gamma, lam=config.lam)
        if config.whiten_advantages:
            batch = self.batch(rollouts, ops.masked_whiten(advantages, mask))
        else:
            batch = self.batch(rollouts, advantages)
        batch.tensors |= {"values_BT": values, "returns_BT": returns}
        batch.metrics["critic/explained_variance"] = _explained_variance(values, returns, mask)
        if config.kl_coefficient:
            batch.metrics["kl/beta"] = Metric(beta)
        if config.kl_target is not None:
            controller = ops.AdaptiveKL(beta, config.kl_target, config.kl_horizon)
            state["kl_beta"] = controller.update(batch.metrics["kl/reference"].value, len(batch))
        batch.state = state
        return batch

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """For the policy what its aggregation counts, for the critic tokens."""
        if role == "policy":
            return super().normaliser(role, minibatch)
        return float(ops.aggregate_count(minibatch["policy_mask_BT"], "token-mean"))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The clipped policy loss, less the entropy, or the clipped value loss."""
        if role == "policy":
            return super().loss(role, outputs, minibatch)
        assert outputs.values_BT is not None
        mask = minibatch["policy_mask_BT"].bool()
        values, old, returns = ops.zeroed(outputs.values_BT, mask), minibatch["values_BT"], minibatch["returns_BT"]
        loss_BT = value_loss(values, old, returns, clip=self.config.value_clip)
        total, count = ops.aggregate_sum(loss_BT, mask, "token-mean"), self.normaliser("critic", minibatch)
        return LossSum(total, count, {"loss/critic": Metric(total.item() / max(count, 1.0), count)})


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Metric:
    """1 - var(returns - values) / var(returns); 0 where the returns do not vary."""
    total = ops.masked_var(returns, mask).item()
    residual = ops.masked_var(returns - values, mask).item()
    return Metric(1 - residual / total if total > 0 else 0.0, float(mask.sum()))


ALGORITHM = Ppo
