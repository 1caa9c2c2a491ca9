"""The reward: reward models, annotators over HTTP, rules or code, which score groups as they finish."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rayalign.actors.hosted import HostedActor, Rendezvous
from rayalign.data.pairs import Question
from rayalign.scoring.sources import RewardSpec, frozen_models, make_scorer
from rayalign.types import Group, Score


class RewardActor(HostedActor):
    """One replica of the reward, or one rank of those that hold its models in parts and are given the same groups."""

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec
        self._computing = threading.Lock()
        """the models do one thing at a time: scores are requested over a wire, and all else through Ray"""

    def setup(self, meeting: Rendezvous) -> None:
        """Load the models: whole in a replica, in parts in a rank."""
        self.use_threads()
        if meeting.spread:
            from rayalign.models.process_group import meet

            meeting.enter()
            meet(self._spec.timeout)  # a model that is loaded later joins this group, with its deadline
        self._scorer = make_scorer(self._spec, spread=meeting.spread)

    def offload(self, parts: Sequence[str]) -> None:
        """Move the models of the reward to host memory."""
        with self._computing:
            for model in frozen_models(self._scorer):
                model.offload()

    def reload(self, parts: Sequence[str]) -> None:
        """Move the models back to their device."""
        with self._computing:
            for model in frozen_models(self._scorer):
                model.reload()

    def close(self) -> None:
        """Release the models."""
        with self._computing:
            for model in frozen_models(self._scorer):
                model.close()

    def compare(self, questions: Sequence[Question]) -> list[Score]:
        """The probability that the first answer of each question is the better one; for a pairwise reward model."""
        from rayalign.scoring.pairwise import PairwiseScorer

        assert isinstance(self._scorer, PairwiseScorer), "the stage has seen that its model compares"
        with self._computing:
            return self._scorer.compare(questions)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """One score for each candidate of each group."""
        with self._computing:
            return self._scorer.score(groups)
