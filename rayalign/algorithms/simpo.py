"""SimPO: simple preference optimization with a reference-free reward (Meng 2024, arXiv 2405.14734)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import simpo_loss


class SimpoConfig(AlgorithmConfig):
    """Settings of SimPO; its authors use a beta of 2 to 10."""

    beta: PositiveFloat = 2.0
    """scale of the log-prob a token"""
    gamma: NonNegativeFloat = 1.0
    """target margin; its authors use 0.3 to 0.5 of beta"""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """share of the labels that are taken to be flipped"""


class Simpo(Pairwise[SimpoConfig]):
    """`-log sigmoid(beta (mean_chosen - mean_rejected) - gamma)`; long answers gain nothing by their length."""

    Config = SimpoConfig
    has_reference = False

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.simpo_loss`."""
        return simpo_loss(
            chosen.logprobs,
            rejected.logprobs,
            chosen.lengths,
            rejected.lengths,
            beta=self.config.beta,
            gamma=self.config.gamma,
            label_smoothing=self.config.label_smoothing,
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`beta * log-prob a token` (Meng 2024, eq. 4)."""
        return self.config.beta * answers.means


ALGORITHM = Simpo
