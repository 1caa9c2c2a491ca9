"""Best-of-n: which candidates of a scored group become answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rayalign.types import Candidate, Example, Group, Trajectory


def best_candidates(group: Group, n: int) -> list[int]:
    """Places among the trajectories of the best candidate of each answer, which has `n` candidates.

    Candidate i is one of answer i // n. The first of equal scores wins. A candidate without a score never wins; an
    answer whose candidates all lack one is left out.
    """
    best: dict[int, int] = {}
    for place, (trajectory, score) in enumerate(zip(group.trajectories, group.scores, strict=True)):
        if score.value is None:
            continue
        answer = trajectory.index // n
        leader = best.get(answer)
        if leader is None or score.value > _value(group, leader):
            best[answer] = place
    return [best[answer] for answer in sorted(best)]


def answers_apart(group: Group, n: int) -> list[Group]:
    """The candidates of each answer as a group of their own, in their order; candidate i is one of answer i // n."""
    by_answer: dict[int, list[Trajectory]] = {}
    for trajectory in group.trajectories:
        by_answer.setdefault(trajectory.index // n, []).append(trajectory)
    return [replace(group, trajectories=tuple(by_answer[answer])) for answer in sorted(by_answer)]


def scored_example(group: Group, source: str | Sequence[str]) -> Example:
    """All candidates of a group with their scores, as an example.

    Args:
        source: what wrote them, or for each place in the group what wrote the candidate there.
    """
    candidates: list[Candidate] = []
    for place, trajectory in enumerate(group.trajectories):
        score = group.scores[place].value if group.scores else None
        author = source if isinstance(source, str) else source[trajectory.index]
        candidates.append(Candidate(trajectory.text, author, score, trajectory.turns))
    return Example(group.prompt, tuple(candidates))


def extremes(example: Example) -> Example | None:
    """The best and the worst candidate, the first of equal ones; None where no two scores differ."""
    scores = {place: answer.score for place, answer in enumerate(example.candidates) if answer.score is not None}
    if len(set(scores.values())) < 2:
        return None
    best, worst = max(scores, key=lambda place: scores[place]), min(scores, key=lambda place: scores[place])
    return replace(example, candidates=(example.candidates[best], example.candidates[worst]))


def _value(group: Group, place: int) -> float:
    value = group.scores[place].value
    assert value is not None
    return value
