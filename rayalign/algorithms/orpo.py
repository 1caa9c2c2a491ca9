"""ORPO: monolithic preference optimization without a reference (Hong 2024, arXiv 2403.07691)."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import orpo_loss


class OrpoConfig(AlgorithmConfig):
    """Settings of ORPO."""

    weight: NonNegativeFloat = 0.1
    """of the odds ratio beside fine-tuning on the chosen answer (lambda)"""


class Orpo(Pairwise[OrpoConfig]):
    """`-mean_chosen - weight * log sigmoid(log odds(chosen) - log odds(rejected))`, odds = p / (1 - p).

    p is `exp(mean)` of an answer.
    """

    Config = OrpoConfig
    has_reference = False

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.orpo_loss`."""
        return orpo_loss(
            chosen.logprobs, rejected.logprobs, chosen.lengths, rejected.lengths, weight=self.config.weight
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`weight * log-prob a token`, as TRL has it."""
        return self.config.weight * answers.means


ALGORITHM = Orpo
