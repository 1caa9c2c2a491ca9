"""Hinge: a margin loss on the log-ratio, from RSO's study of losses (Liu 2023, arXiv 2309.06657)."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import hinge_loss


class HingeConfig(AlgorithmConfig):
    """Settings of the hinge loss."""

    beta: PositiveFloat = 0.1
    """a pair costs nothing from a margin of 1 / beta on"""


class Hinge(Pairwise[HingeConfig]):
    """`max(0, 1 - beta h)`, h the margin of the log-ratio of policy to reference."""

    Config = HingeConfig
    has_reference = True

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.hinge_loss`."""
        return hinge_loss(
            chosen.logprobs, rejected.logprobs, chosen.reference, rejected.reference, beta=self.config.beta
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`beta * log-ratio`, as of DPO."""
        return self.config.beta * answers.ratios


ALGORITHM = Hinge
