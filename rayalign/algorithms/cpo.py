"""CPO: contrastive preference optimization (Xu 2024, arXiv 2401.08417)."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import cpo_loss


class CpoConfig(AlgorithmConfig):
    """Settings of CPO."""

    beta: PositiveFloat = 0.1
    """scale of the log-prob"""
    alpha: NonNegativeFloat = 1.0
    """of fine-tuning on the chosen answer"""


class Cpo(Pairwise[CpoConfig]):
    """`-log sigmoid(beta a) - alpha * mean_chosen`: DPO with a uniform reference, and fine-tuning beside it."""

    Config = CpoConfig
    has_reference = False

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.cpo_loss`."""
        return cpo_loss(
            chosen.logprobs, rejected.logprobs, chosen.lengths, beta=self.config.beta, alpha=self.config.alpha
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`beta * log-prob`."""
        return self.config.beta * answers.logprobs


ALGORITHM = Cpo
