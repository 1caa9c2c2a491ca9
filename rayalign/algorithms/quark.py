"""Quark: answers are sorted by reward, and each is learned after the reward token of its quantile.

Lu 2022 (arXiv 2205.13636, equation 3), in the form of AlpacaFarm (Dubois 2023, arXiv 2305.14387): the pool of answers
is that of one iteration, and the penalty is KL(policy || reference), exact over the vocabulary (the paper has the other
direction and a pool that grows). Unlike AlpacaFarm, padding does not count, and the reference reads the token too.
"""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.errors import InputError
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts


class QuarkConfig(AlgorithmConfig):
    """Settings of Quark; the coefficients are AlpacaFarm's."""

    quantiles: int = Field(4, ge=2)
    """groups into which scored answers are divided; each has a reward token"""
    best_only: bool = False
    """train on the best quantile alone, without reward tokens: AlpacaFarm's default"""
    kl_coefficient: NonNegativeFloat = 0.05
    """0: no reference model"""
    entropy_coefficient: NonNegativeFloat = 0.0
    """weight of the entropy in the objective"""
    epochs: PositiveInt = 1
    """passes over each rollout batch"""


def quantile_of(scores_B: Tensor, quantiles: int) -> Tensor:
    """The quantile of each score, 0 the best: floor(quantiles x share of higher scores); equal scores share one."""
    higher_B = (scores_B[None, :] > scores_B[:, None]).sum(dim=1)
    return higher_B * quantiles // len(scores_B)


def set_reward_token(input_ids_BT: Tensor, prompt_BT: Tensor, reward_tokens_Q: Tensor, quantile_B: Tensor) -> Tensor:
    """Token ids with the reward token of each row's quantile in the place of the one in its prompt.

    Raises:
        InputError: a row's prompt has no reward token.
    """
    token_BT = torch.isin(input_ids_BT, reward_tokens_Q) & prompt_BT.bool()
    if not token_BT.any(dim=1).all():
        raise InputError("a prompt has no reward token; it needs a user turn, which carries the token")
    return torch.where(token_BT, reward_tokens_Q[quantile_B][:, None], input_ids_BT)


class Quark(Algorithm[QuarkConfig]):
    """A policy that learns all of its answers, and which of them are good.

    `-log pi(token) + kl_coefficient KL(pi || reference) - entropy_coefficient H(pi)`, after the reward token of the
    answer's quantile.
    """

    Config = QuarkConfig
    unit = "sequence"
    trains = ("policy",)

    @property
    def roles(self) -> frozenset[Role]:
        """The reference takes part where the KL counts."""
        return frozenset({"policy", "reward", "reference"} if self.config.kl_coefficient else {"policy", "reward"})

    @property
    def needs(self) -> frozenset[Need]:
        """Scores; the exact KL where it counts."""
        return frozenset({"scores", "exact_kl"} if self.config.kl_coefficient else {"scores"})

    @property
    def passes(self) -> int:
        """Epochs over each rollout batch."""
        return self.config.epochs

    @property
    def metrics(self) -> frozenset[str]:
        """Those of the rollouts, the loss, the entropy, and the KL where it counts."""
        names = super().metrics | {"policy/entropy", "quark/best_score"}
        return names | {"kl/reference"} if self.config.kl_coefficient else names

    @property
    def differentiates_entropy(self) -> bool:
        """Where it counts."""
        return self.config.entropy_coefficient > 0

    @property
    def reward_tokens(self) -> int:
        """One for each quantile."""
        return 0 if self.config.best_only else self.config.quantiles

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Quantiles over the whole batch; every row has a score."""
        scores_B = rollouts.scores_B
        assert scores_B is not None and not scores_B.isnan().any(), "rows without a score are dropped before"
        quantile_B = quantile_of(scores_B, self.config.quantiles)
        best_B = quantile_B == 0
        metrics = ops.rollout_metrics(rollouts)
        metrics["quark/best_score"] = Metric(scores_B[best_B].mean().item(), float(best_B.sum()))
        tensors = ops.token_tensors(rollouts)
        rows_B = torch.arange(len(scores_B))
        if self.config.best_only:
            rows_B = rows_B[best_B]
        else:
            tokens_Q = torch.tensor(rollouts.reward_tokens[: self.config.quantiles])
            prompt_BT = rollouts.attention_mask_BT * (1 - rollouts.policy_mask_BT)
            tensors["input_ids_BT"] = set_reward_token(rollouts.input_ids_BT, prompt_BT, tokens_Q, quantile_B)
        batch = Batch(tensors, torch.arange(len(scores_B))).rows(rows_B)
        batch.metrics = metrics
        return batch

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Trained tokens."""
        return float(ops.aggregate_count(minibatch["policy_mask_BT"], "token-mean"))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """-log-prob + kl_coefficient x KL - entropy_coefficient x entropy of each token, summed."""
        config, mask_BT = self.config, minibatch["policy_mask_BT"].bool()
        assert outputs.logprobs_BT is not None and outputs.entropy_BT is not None
        entropy_BT = ops.zeroed(outputs.entropy_BT, mask_BT)
        loss_BT = -ops.zeroed(outputs.logprobs_BT, mask_BT)
        metrics = {"policy/entropy": ops.mean_metric(entropy_BT.detach(), mask_BT)}
        if config.kl_coefficient:
            assert outputs.kl_BT is not None
            kl_BT = ops.zeroed(outputs.kl_BT, mask_BT)
            loss_BT = loss_BT + config.kl_coefficient * kl_BT
            metrics["kl/reference"] = Metric(kl_BT.detach().sum(dim=1).mean().item(), float(len(kl_BT)))
        if config.entropy_coefficient:
            loss_BT = loss_BT - config.entropy_coefficient * entropy_BT
        total, count = loss_BT.sum(), self.normaliser(role, minibatch)
        metrics["loss/policy"] = Metric(total.item() / max(count, 1.0), count)
        return LossSum(total, count, metrics)


ALGORITHM = Quark
