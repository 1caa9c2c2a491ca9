"""RPO: DPO with fine-tuning on the chosen answer (iterative reasoning preference optimization; Pang 2024).

The paper is arXiv 2404.19733.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import rpo_loss


class RpoConfig(AlgorithmConfig):
    """Settings of RPO."""

    beta: PositiveFloat = 0.1
    """strength of the pull towards the reference"""
    alpha: NonNegativeFloat = 1.0
    """of fine-tuning on the chosen answer"""


class Rpo(Pairwise[RpoConfig]):
    """`-log sigmoid(beta h) - alpha * mean_chosen`, h the margin of the log-ratio of policy to reference."""

    Config = RpoConfig
    has_reference = True

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.rpo_loss`."""
        return rpo_loss(
            chosen.logprobs,
            rejected.logprobs,
            chosen.reference,
            rejected.reference,
            chosen.lengths,
            beta=self.config.beta,
            alpha=self.config.alpha,
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`beta * log-ratio`, as of DPO."""
        return self.config.beta * answers.ratios


ALGORITHM = Rpo
