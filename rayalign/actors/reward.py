"""The reward: reward models, annotators over HTTP, rules or code, which score groups as they finish.

Ray, the wire  -->  the thread of the reward: setup, score, offload, ... one after another
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from rayalign.actors.hosted import HostedActor, Rendezvous
from rayalign.cores import yield_to_learners
from rayalign.data.pairs import Question
from rayalign.scoring.sources import RewardSpec, frozen_models, make_scorer
from rayalign.types import Group, Score

T = TypeVar("T")


class RewardActor(HostedActor):
    """One replica of the reward, or one rank of those that hold its models in parts and are given the same groups.

    All of it happens in one thread, whoever calls: models do one thing at a time, and a user's scorer may hold what
    belongs to the thread that made it, as a connection to SQLite does.
    """

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec
        on_cores = not torch.cuda.is_available()
        self._thread = ThreadPoolExecutor(1, "reward", initializer=yield_to_learners if on_cores else None)

    def setup(self, meeting: Rendezvous) -> None:
        """Load the models: whole in a replica, in parts in a rank."""
        self._in_thread(lambda: self._load(meeting))

    def offload(self, parts: Sequence[str]) -> None:
        """Move the models of the reward to host memory."""
        self._in_thread(lambda: [model.offload() for model in frozen_models(self._scorer)])

    def reload(self, parts: Sequence[str]) -> None:
        """Move the models back to their device."""
        self._in_thread(lambda: [model.reload() for model in frozen_models(self._scorer)])

    def close(self) -> None:
        """Release the models, and end the thread."""
        self._in_thread(lambda: [model.close() for model in frozen_models(self._scorer)])
        self._thread.shutdown()

    def compare(self, questions: Sequence[Question]) -> list[Score]:
        """The probability that the first answer of each question is the better one; for a pairwise reward model."""
        from rayalign.scoring.pairwise import PairwiseScorer

        scorer = self._scorer
        assert isinstance(scorer, PairwiseScorer), "the stage has seen that its model compares"
        return self._in_thread(lambda: scorer.compare(questions))

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """One score for each candidate of each group."""
        return self._in_thread(lambda: self._scorer.score(groups))

    def _load(self, meeting: Rendezvous) -> None:
        self.use_threads()
        if meeting.spread:
            from rayalign.models.process_group import meet

            meeting.enter()
            meet(self._spec.timeout)  # a model that is loaded later joins this group, with its deadline
        self._scorer = make_scorer(self._spec, spread=meeting.spread)

    def _in_thread(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()
