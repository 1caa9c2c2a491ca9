"""DPO: direct preference optimization (Rafailov 2023, arXiv 2305.18290), with its variants for noisy labels."""

from __future__ import annotations

from pydantic import Field, PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import dpo_loss


class DpoConfig(AlgorithmConfig):
    """Settings of DPO."""

    beta: PositiveFloat = 0.1
    """strength of the pull towards the reference; eva uses 0.05"""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """share of the labels that are taken to be flipped (cDPO, Mitchell 2023)"""
    robust: bool = False
    """unbiased under that share of flips (rDPO, Chowdhury 2024); its authors use a label_smoothing of 0.1"""


class Dpo(Pairwise[DpoConfig]):
    """`-log sigmoid(beta h)`, h the margin of the log-ratio of policy to reference."""

    Config = DpoConfig
    has_reference = True

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.dpo_loss`."""
        return dpo_loss(
            chosen.logprobs,
            rejected.logprobs,
            chosen.reference,
            rejected.reference,
            beta=self.config.beta,
            label_smoothing=self.config.label_smoothing,
            robust=self.config.robust,
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`beta * log-ratio` (Rafailov 2023, eq. 5, but for a term of the prompt)."""
        return self.config.beta * answers.ratios


ALGORITHM = Dpo
