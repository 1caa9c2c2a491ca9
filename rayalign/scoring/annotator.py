"""An annotator of the service as a scorer, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayalign.annotator.client import AnnotatorClient
from rayalign.errors import DeadlineError
from rayalign.types import Group, Score, Trajectory, with_turns


class AnnotatorScorer:
    """Asks for one number for each candidate; a saturated or restarting service is waited for.

    Args:
        address: the service's URL, then `#` and the annotator's name.
        timeout: seconds until all groups of a call must have been answered; then their scores are absent.
    """

    def __init__(self, address: str, timeout: float) -> None:
        url, _, name = address.partition("#")
        self._client = AnnotatorClient(url, name, deadline=timeout)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`."""
        items: list[dict[str, Any]] = []
        for group in groups:
            items += [_item(group, trajectory) for trajectory in group.trajectories]
        try:
            found = iter([Score(reply.score, reply.reason) for reply in self._client.scores(items)])
        except DeadlineError as error:
            found = iter([Score(None, str(error))] * len(items))
        return [tuple(next(found) for _ in group.trajectories) for group in groups]


def _item(group: Group, trajectory: Trajectory) -> dict[str, Any]:
    dialogue = with_turns(group.prompt, trajectory.turns)
    messages = [{"role": message.role, "content": message.content} for message in dialogue.messages]
    return {"messages": messages, "meta": dict(group.prompt.meta), "output": trajectory.text}
