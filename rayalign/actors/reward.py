"""The reward: a frozen scalar-head model that scores groups as they finish."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.actors.hosted import HostedActor
from rayalign.config import LearnerConfig
from rayalign.scoring.reward_model import RewardModelScorer
from rayalign.types import Group, Score


class RewardActor(HostedActor):
    """One replica of the reward model."""

    def __init__(self, model: str, config: LearnerConfig, policy: str) -> None:
        self._source = (model, config, policy)

    def setup(self) -> None:
        """Load the model."""
        self.use_threads()
        self._scorer = RewardModelScorer(*self._source)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """One score for each candidate of each group."""
        return self._scorer.score(groups)
