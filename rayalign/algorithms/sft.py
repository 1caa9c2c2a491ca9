"""Supervised fine-tuning: the negative log-likelihood of the answer's tokens (InstructGPT's step 1, Ouyang 2022)."""

from __future__ import annotations

import torch

from rayalign.algorithms.base import Algorithm, AlgorithmConfig
from rayalign.algorithms.ops import aggregate_count, aggregate_sum, token_tensors
from rayalign.types import Batch, LossSum, Metric, Minibatch, Outputs, Role, Rollouts


class SftConfig(AlgorithmConfig):
    """Supervised fine-tuning has no settings of its own."""


class Sft(Algorithm[SftConfig]):
    """`-log pi(token)`; every trained token counts alike, whichever answer it stands in."""

    Config = SftConfig
    unit = "sequence"
    trains = ("policy",)

    @property
    def metrics(self) -> frozenset[str]:
        """The loss and the number of trained tokens."""
        return frozenset({"loss/sft", "sft/tokens"})

    @property
    def reads_entropy(self) -> bool:
        """Log-probs are enough."""
        return False

    def prepare(self, rollouts: Rollouts) -> Batch:
        """Rows as they are."""
        return Batch(token_tensors(rollouts), torch.arange(len(rollouts.policy_mask_BT)))

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """Trained tokens."""
        return float(aggregate_count(minibatch["policy_mask_BT"], "token-mean"))

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The summed negative log-likelihood; perplexity is exp of the merged `loss/sft`."""
        assert outputs.logprobs_BT is not None
        total = -aggregate_sum(outputs.logprobs_BT, minibatch["policy_mask_BT"], "token-mean")
        count = self.normaliser(role, minibatch)
        mean = Metric(total.item() / max(count, 1.0), count)
        return LossSum(total, count, {"loss/sft": mean, "sft/tokens": Metric(count, reduction="sum")})


ALGORITHM = Sft
