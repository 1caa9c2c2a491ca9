"""An algorithm: the difference of two answers' log-probs a token is led to a target margin.

`(mean_chosen - mean_rejected - margin)^2` for each pair; there is no reference model.
"""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise


class LeastSquaresConfig(AlgorithmConfig):
    """Settings; a job gives them beside the name."""

    margin: PositiveFloat = 1.0
    """nats a token"""


class LeastSquares(Pairwise[LeastSquaresConfig]):
    """A pair beyond its margin is pulled back, so that the policy stays near where it began."""

    Config = LeastSquaresConfig
    has_reference = False

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """The squared distance from the margin."""
        return (self.rewards(chosen) - self.rewards(rejected) - self.config.margin) ** 2

    def rewards(self, answers: Answers) -> Tensor:
        """Log-prob a token."""
        return answers.means
