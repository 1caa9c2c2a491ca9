"""A reward of several sources: each scores by itself, and `RewardCombiner` makes their parts one score."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from rayalign.algorithms.ops import RunningMoments
from rayalign.config import CombineKind, RewardSource
from rayalign.data.preferences import OBJECTIVES
from rayalign.errors import InputError
from rayalign.scoring.base import Scorer
from rayalign.scoring.combine import combine
from rayalign.types import Group, Prompt, Score, ScorePart


def active_parts(prompt: Prompt, names: Sequence[str], for_all: Collection[str] = ()) -> list[str]:
    """The names of the parts that count for a prompt: all of them where its meta names no objectives.

    Args:
        for_all: parts that count for every prompt, whatever objectives it names.

    Raises:
        InputError: the prompt names a part that the reward does not have.
    """
    if OBJECTIVES not in prompt.meta:
        return list(names)
    requested = [name.strip() for name in prompt.meta[OBJECTIVES].split(",")]
    for name in requested:
        if name not in names:
            raise InputError(
                f"prompt {prompt.id} names the objective {name!r}, but the reward's parts are {', '.join(names)}; "
                "correct the data or add that part"
            )
    return [name for name in names if name in requested or name in for_all]


class PartsScorer:
    """Scores by several sources; the scores hold parts and no value yet.

    Args:
        for_all: parts that count for every prompt, whatever objectives it names.
    """

    def __init__(self, scorers: Mapping[str, Scorer], for_all: Collection[str] = ()) -> None:
        self.scorers = scorers
        self._for_all = frozenset(for_all)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`; each source sees only the groups whose prompt it counts for."""
        names = list(self.scorers)
        active = [active_parts(group.prompt, names, self._for_all) for group in groups]
        parts: list[list[list[ScorePart]]] = []
        for group in groups:
            parts.append([[] for _ in group.trajectories])
        for name, scorer in self.scorers.items():
            indices = [index for index, counted in enumerate(active) if name in counted]
            if not indices:
                continue
            answers = scorer.score([groups[index] for index in indices])
            for index, scores in zip(indices, answers, strict=True):
                for own, score in zip(parts[index], scores, strict=True):
                    own.append(ScorePart(name, score.value, score.reason))
        return [tuple(map(_score, rows)) for rows in parts]


def _score(parts: Sequence[ScorePart]) -> Score:
    absent = [f"{part.name}: {part.reason or 'no reason'}" for part in parts if part.value is None]
    return Score(None, absent[0] if absent else None, tuple(parts))


def is_absent(score: Score) -> bool:
    """Whether a score, or one of its parts, is still to be computed."""
    if not score.parts:
        return not _is_present(score.value)
    return not all(_is_present(part.value) for part in score.parts)


def _is_present(value: float | None) -> bool:
    """A number that is not finite is no score."""
    return value is not None and math.isfinite(value)


def merge_scores(before: Score, after: Score) -> Score:
    """What a second scoring adds: scores and parts that were present stay as they were."""
    if not after.parts:
        return before if _is_present(before.value) else after
    present = {part.name: part for part in before.parts if _is_present(part.value)}
    return _score([present.get(part.name, part) for part in after.parts])


class RewardCombiner:
    """Makes the parts of each score one value, each part normalised by its running moments where its source asks."""

    def __init__(self, sources: Sequence[RewardSource], kind: CombineKind) -> None:
        self._sources = {source.label: source for source in sources}
        self._kind = kind
        self._moments = {source.label: RunningMoments() for source in sources if source.normalise}

    def total(self, group: Group) -> Group:
        """The group with a value for each of its scores, by the moments so far; an environment's reward is added.

        A score that lacks a part which counts has no value: those of the others would be on another scale.
        """
        scores: list[Score] = []
        values = self._combine(group.scores)
        for trajectory, score, value in zip(group.trajectories, group.scores, values, strict=True):
            if is_absent(score):
                value = None
            total = None if value is None else value + (trajectory.reward or 0.0)
            scores.append(replace(score, value=total))
        return replace(group, scores=tuple(scores))

    def take(self, groups: Sequence[Group]) -> list[Group]:
        """The groups of one iteration with their final values: their own scores count in the moments."""
        self.observe(groups)
        return [self.total(group) for group in groups]

    def observe(self, groups: Sequence[Group]) -> None:
        """Count the scores of one iteration in the moments."""
        for name, moments in self._moments.items():
            moments.update(torch.tensor(part_values(groups, name), dtype=torch.float64))

    def _combine(self, scores: Sequence[Score]) -> list[float | None]:
        rows: list[list[float]] = []
        for name in self._sources:
            values = torch.tensor([_value(score, name) for score in scores], dtype=torch.float64)
            moments = self._moments.get(name)
            rows.append((moments.normalize(values) if moments else values).tolist())
        scores_OB = torch.tensor(rows, dtype=torch.float64)
        weights = [source.weight for source in self._sources.values()]
        weights_O = torch.tensor(weights, dtype=torch.float64)
        ideals = [source.ideal for source in self._sources.values()]
        ideal_O = torch.tensor(ideals, dtype=torch.float64)
        combined_B = combine(scores_OB, weights_O, ~scores_OB.isnan(), kind=self._kind, ideal_O=ideal_O)
        return [value if math.isfinite(value) else None for value in combined_B.tolist()]


def part_values(groups: Sequence[Group], name: str) -> list[float]:
    """All present values of one part, in the order of groups and candidates."""
    values: list[float] = []
    for group in groups:
        for score in group.scores:
            value = _value(score, name)
            if not math.isnan(value):
                values.append(value)
    return values


def _value(score: Score, name: str) -> float:
    """The value of a part; NaN where it does not count."""
    for part in score.parts:
        if part.name == name and part.value is not None:
            return part.value
    return math.nan
