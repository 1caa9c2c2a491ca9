"""KTO: Kahneman-Tversky optimization (Ethayarajh 2024, arXiv 2402.01306) on answers that are good or bad by themselves.

Its estimate of the KL is one number for the minibatch of all ranks, made in `prepare` without a gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import Algorithm, AlgorithmConfig, Need
from rayalign.algorithms.ops import token_tensors, zeroed
from rayalign.algorithms.preference import kto_values
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts


class KtoConfig(AlgorithmConfig):
    """Settings of KTO; the defaults are the paper's."""

    beta: PositiveFloat = 0.1
    """strength of the pull towards the reference"""
    desirable_weight: NonNegativeFloat = 1.0
    """of the loss of good answers"""
    undesirable_weight: NonNegativeFloat = 1.0
    """of the loss of bad answers; the paper advises that the weights of good ones sum to 1 to 4/3 times theirs"""
    kl: Literal["mismatched", "opposite"] = "mismatched"
    """estimated on answers to other prompts, as the paper; or for good answers on the bad ones and for bad on good"""


class Kto(Algorithm[KtoConfig]):
    """Good: `desirable_weight (1 - sigmoid(beta (d - z)))`, bad: `undesirable_weight (1 - sigmoid(beta (z - d)))`.

    d is the log-ratio of policy to reference, z = max(0, mean of d over the answers that estimate the KL). An answer
    that is good with probability p costs the expected loss.
    """

    Config = KtoConfig
    unit = "group"
    trains = ("policy",)

    @property
    def roles(self) -> frozenset[Role]:
        """The policy and its reference."""
        return frozenset({"policy", "reference"})

    @property
    def needs(self) -> frozenset[Need]:
        """What is good, both models' log-probs before the step, and answers to other prompts to estimate the KL on."""
        needs: set[Need] = {"desirability", "logprobs", "reference_logprobs"}
        return frozenset(needs | {"mismatched"} if self.config.kl == "mismatched" else needs)

    @property
    def metrics(self) -> frozenset[str]:
        """The loss, the estimate, and the implicit rewards `beta d` of good and bad answers."""
        return frozenset({"loss/policy", "kto/kl", "kto/desirable_reward", "kto/undesirable_reward"})

    def measured_rows(self, rollouts: Rollouts) -> Tensor:
        """The answers that the KL is estimated on."""
        assert rollouts.desirable_B is not None
        own_B = ~rollouts.desirable_B.isnan()
        return ~own_B if self.config.kl == "mismatched" else own_B

    @property
    def reads_entropy(self) -> bool:
        """Log-probs are enough."""
        return False

    def prepare(self, rollouts: Rollouts) -> Batch:
        """The answers to their own prompts, with the estimate that each has as a good and as a bad one."""
        desirable_B, mask_BT = rollouts.desirable_B, rollouts.policy_mask_BT
        assert desirable_B is not None
        assert rollouts.logprobs_BT is not None and rollouts.reference_logprobs_BT is not None
        reference_B = zeroed(rollouts.reference_logprobs_BT, mask_BT).sum(1)
        ratios_B = zeroed(rollouts.logprobs_BT, mask_BT).sum(1) - reference_B
        own_B = ~desirable_B.isnan()
        if self.config.kl == "mismatched":
            good = bad = _estimate(ratios_B, (~own_B).to(ratios_B.dtype))
        else:
            good = _estimate(ratios_B, zeroed(1 - desirable_B, own_B))
            bad = _estimate(ratios_B, zeroed(desirable_B, own_B))
        tensors = {
            **token_tensors(rollouts),
            "desirable_B": desirable_B,
            "reference_B": reference_B,
            "good_kl_B": good.expand(len(ratios_B)),
            "bad_kl_B": bad.expand(len(ratios_B)),
        }
        return Batch(tensors, rollouts.group_B).rows(own_B.nonzero().squeeze(1))

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Answers."""
        return float(len(minibatch))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The sum of the answers' expected losses."""
        assert outputs.logprobs_BT is not None
        ratios_B = zeroed(outputs.logprobs_BT, minibatch["policy_mask_BT"]).sum(1) - minibatch["reference_B"]
        good_B, _ = kto_values(ratios_B, minibatch["good_kl_B"], beta=self.config.beta)
        _, bad_B = kto_values(ratios_B, minibatch["bad_kl_B"], beta=self.config.beta)
        desirable_B = minibatch["desirable_B"]
        undesirable_B = 1 - desirable_B
        good_B = self.config.desirable_weight * desirable_B * good_B
        bad_B = self.config.undesirable_weight * undesirable_B * bad_B
        losses_B = good_B + bad_B
        rewards_B = self.config.beta * ratios_B
        kl_B = (minibatch["good_kl_B"] + minibatch["bad_kl_B"]) / 2
        metrics = {
            "loss/policy": _mean(losses_B, torch.ones_like(losses_B)),
            "kto/kl": _mean(kl_B, torch.ones_like(kl_B)),
            "kto/desirable_reward": _mean(rewards_B, desirable_B),
            "kto/undesirable_reward": _mean(rewards_B, undesirable_B),
        }
        return LossSum(losses_B.sum(), float(len(minibatch)), metrics)


def _estimate(ratios_B: Tensor, weights_B: Tensor) -> Tensor:
    """The weighted mean, at least 0; 0 without weight."""
    total = (ratios_B * weights_B).sum()
    return (total / weights_B.sum().clamp(min=1e-9)).clamp(min=0)


def _mean(values_B: Tensor, weights_B: Tensor) -> Metric:
    weight = weights_B.sum().item()
    total = (values_B * weights_B).sum().item()
    return Metric(total / weight if weight else 0.0, weight)


ALGORITHM = Kto
