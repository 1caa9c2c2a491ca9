"""SLiC-HF: sequence likelihood calibration with human feedback (Zhao 2023, arXiv 2305.10425)."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import slic_loss


class SlicConfig(AlgorithmConfig):
    """Settings of SLiC-HF."""

    delta: NonNegativeFloat = 1.0
    """a pair costs nothing from this margin of log-probs on"""
    weight: NonNegativeFloat = 0.5
    """of the log-prob of the answer that the policy stays near (lambda), which its authors tune"""


class Slic(Pairwise[SlicConfig]):
    """`max(0, delta - a) - weight * logp`, a the margin of log-probs, without a reference.

    logp is that of the chosen answer, for pairs carry no third one; the paper has it of a demonstration.
    """

    Config = SlicConfig
    has_reference = False

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.slic_loss`."""
        return slic_loss(
            chosen.logprobs, rejected.logprobs, chosen.logprobs, delta=self.config.delta, weight=self.config.weight
        )

    def rewards(self, answers: Answers) -> Tensor:
        """The log-prob, whose margin the loss is of."""
        return answers.logprobs


ALGORITHM = Slic
