"""An annotator of the service as a scorer, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from rayalign.annotator.api import POOL
from rayalign.annotator.client import AnnotatorClient
from rayalign.dialogues import whole_answers
from rayalign.errors import DeadlineError
from rayalign.scoring.base import ALONE
from rayalign.types import Group, Prompt, Score, Trajectory, with_turns

MOST_RANKED = 64
"""answers of one ranking that the service takes"""


class AnnotatorScorer:
    """Asks for one number for each candidate; a saturated or restarting service is waited for.

    An annotator that only compares gives each candidate its mean preference over the prompt's other ones; a candidate
    that stands alone has no score.

    Args:
        address: the service's URL, then `#` and the annotator's name.
        timeout: seconds until all groups of a call must have been answered; then their scores are absent.
    """

    def __init__(self, address: str, timeout: float) -> None:
        url, _, self._name = address.partition("#")
        self._client = AnnotatorClient(url, self._name, deadline=timeout)
        self._compares: bool | None = None

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`."""
        try:
            if self._compares is None:
                self._compares = self._only_compares()
            return self._compared(groups) if self._compares else self._scored(groups)
        except DeadlineError as error:
            absent = Score(None, str(error))
            return [(absent,) * len(group.trajectories) for group in groups]

    def _only_compares(self) -> bool:
        scoring = {info.name: info.scores for info in self._client.annotators()}
        # an unknown name is left to the service, which refuses it
        return self._name == POOL or not scoring.get(self._name, True)

    def _scored(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        items: list[dict[str, Any]] = []
        for group in groups:
            items += [_item(group, trajectory) for trajectory in group.trajectories]
        scores = iter([Score(reply.score, reply.reason) for reply in self._client.scores(items)])
        return [tuple(islice(scores, len(group.trajectories))) for group in groups]

    def _compared(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        replies = iter(self._client.rankings([_ranking(group) for group in groups if _is_comparable(group)]))
        scores: list[tuple[Score, ...]] = []
        for group in groups:
            if _is_comparable(group):
                reply = next(replies)
                scores.append(tuple(Score(value, reply.reason if value is None else None) for value in reply.scores))
            else:
                scores.append((_not_compared(group),) * len(group.trajectories))
        return scores


def _is_comparable(group: Group) -> bool:
    return 1 < len(group.trajectories) <= MOST_RANKED


def _not_compared(group: Group) -> Score:
    count = len(group.trajectories)
    return Score(None, ALONE if count < 2 else f"{count} answers are more than the {MOST_RANKED} that are compared")


def _item(group: Group, trajectory: Trajectory) -> dict[str, Any]:
    return {**_prompt(with_turns(group.prompt, trajectory.turns)), "output": trajectory.text}


def _ranking(group: Group) -> dict[str, Any]:
    prompt, texts = whole_answers(group.prompt, group.trajectories)
    return {**_prompt(prompt), "outputs": texts}


def _prompt(dialogue: Prompt) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in dialogue.messages]
    return {"messages": messages, "meta": dict(dialogue.meta)}
