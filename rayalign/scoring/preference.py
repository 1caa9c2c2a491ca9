"""A reward model that reads each prompt as if it named one preference alone.

A prompt under a profile names several preferences, and a reward model that is conditioned on preferences was trained on
prompts that name one. So each preference of the profile is scored by itself, as one part of the reward, and the parts
are combined (Jang 2023, arXiv 2310.11564: P-MORL). The answer stands in every scored text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from rayalign.data.preferences import under_one
from rayalign.types import Group, Prompt, Score, Trajectory


class ReadingScorer(Protocol):
    """A scorer of token ids."""

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt in the scorer's tokens, up to where the answer begins."""


class PreferenceScorer:
    """Scores under one preference by a scorer that other preferences share."""

    def __init__(self, scorer: ReadingScorer, preference: str) -> None:
        self.scorer = scorer
        self._preference = preference

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`; InputError where a prompt's profile does not hold the preference."""
        return self.scorer.score([self._under(group) for group in groups])

    def _under(self, group: Group) -> Group:
        prompt = under_one(group.prompt, self._preference)
        prompt_ids = self.scorer.encode(prompt)
        trajectories = tuple(_after(prompt_ids, trajectory) for trajectory in group.trajectories)
        return replace(group, prompt=prompt, trajectories=trajectories)


def _after(prompt_ids: tuple[int, ...], trajectory: Trajectory) -> Trajectory:
    """The same answer after another prompt."""
    start = next((segment.start for segment in trajectory.segments if segment.start), len(trajectory.token_ids))
    shift = len(prompt_ids) - start
    segments = [
        replace(segment, start=segment.start + shift) if segment.start else segment for segment in trajectory.segments
    ]
    token_ids = (*prompt_ids, *trajectory.token_ids[start:])
    return replace(trajectory, token_ids=token_ids, segments=tuple(segments))
