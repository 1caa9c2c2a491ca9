"""SPPO: self-play preference optimization (Wu 2024, arXiv 2405.00675): each answer is led to its win probability."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from rayalign.algorithms.base import AlgorithmConfig, Need
from rayalign.algorithms.pairs import Answers, Pairwise
from rayalign.algorithms.preference import SppoKind, sppo_loss


class SppoConfig(AlgorithmConfig):
    """Settings of SPPO."""

    eta: PositiveFloat = 1000.0
    """an answer that wins with probability P is led to a log-ratio of eta (P - 1/2): large targets, so clip norms"""
    kind: SppoKind = "soft"
    """P against all answers to the prompt (soft, the paper's), against the pair's other one (single); 1 and 0 (hard)"""


class Sppo(Pairwise[SppoConfig]):
    """`(d - eta (P - 1/2))^2` of each answer, d its log-ratio to the reference; soft and single take the half."""

    Config = SppoConfig
    has_reference = True

    @property
    def needs(self) -> frozenset[Need]:
        """Beside what DPO needs, for soft the win shares."""
        return super().needs | frozenset({"scores"} if self.config.kind == "soft" else ())

    def pair_loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """See `preference.sppo_loss`; soft and single are the same in either order of the two."""
        soft = self.config.kind == "soft"
        return sppo_loss(
            chosen.logprobs,
            rejected.logprobs,
            chosen.reference,
            rejected.reference,
            eta=self.config.eta,
            kind=self.config.kind,
            p_chosen=chosen.shares if soft else chosen.probabilities,
            p_rejected=rejected.shares if soft else rejected.probabilities,
        )

    def rewards(self, answers: Answers) -> Tensor:
        """`log-ratio / eta`, which is led to P - 1/2."""
        return answers.ratios / self.config.eta


ALGORITHM = Sppo
