"""IPO: identity preference optimization (Azar 2023, arXiv 2310.12036): a margin with a target."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import ipo_loss


class IpoConfig(AlgorithmConfig):
    """Settings of IPO."""

    tau: PositiveFloat = 0.1
    """strength of the pull towards the reference: a sure margin is led to 1 / (2 tau); eva uses 0.6 with `average`"""
    average: bool = False
    """margins of means over tokens, as TRL and eva have them; False: of sums, as the paper"""


class Ipo(Pairwise[IpoConfig]):
    """`(h - 1 / (2 tau))^2`; with a preference of probability p the margin is led to `(2 p - 1) / (2 tau)`."""

    Config = IpoConfig
    has_reference = True

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.ipo_loss`."""
        average = self.config.average
        return ipo_loss(
            chosen.logprobs,
            rejected.logprobs,
            chosen.reference,
            rejected.reference,
            tau=self.config.tau,
            chosen_lengths=chosen.lengths if average else None,
            rejected_lengths=rejected.lengths if average else None,
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`tau * log-ratio`."""
        ratios = answers.ratios / answers.lengths if self.config.average else answers.ratios
        return self.config.tau * ratios


ALGORITHM = Ipo
