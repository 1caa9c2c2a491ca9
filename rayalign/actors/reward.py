"""The reward: a frozen scalar-head model, or an annotator over HTTP, that scores groups as they finish."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.actors.hosted import FrozenSpec, HostedActor, Rendezvous
from rayalign.scoring.annotator import AnnotatorScorer
from rayalign.scoring.base import Scorer
from rayalign.scoring.reward_model import RewardModelScorer
from rayalign.types import Group, Score


class RewardActor(HostedActor):
    """One replica of the reward model."""

    def __init__(self, spec: FrozenSpec) -> None:
        self._spec = spec

    def setup(self, meeting: Rendezvous) -> None:
        """Load the model, or find the service; replicas share nothing."""
        self.use_threads()
        self._scorer: Scorer
        if self._spec.model.startswith(("http://", "https://")):
            self._scorer = AnnotatorScorer(self._spec.model, self._spec.timeout)
        else:
            self._scorer = RewardModelScorer(self._spec.model, self._spec.config, self._spec.policy)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """One score for each candidate of each group."""
        return self._scorer.score(groups)
