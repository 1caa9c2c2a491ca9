"""What the answers of each model look like, beside how good they are: cut, short, repeating themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayalign.statistics.doubts import CUT, LENGTH, REPETITION
from rayalign.statistics.intervals import mean_interval
from rayalign.types import Candidate, Group, Trajectory

RUN = 3
"""tokens of a run that may repeat"""


def answer_rows(
    name: str, groups: Sequence[Group], answers: Mapping[str, Candidate], *, seed: int
) -> list[dict[str, Any]]:
    """The share of a model's answers that a limit cut, their mean length, and how much they repeat themselves.

    Args:
        groups: what the model wrote; its answers are among the candidates.
        answers: by the prompt's id.
    """
    written: list[Trajectory] = []
    for group in groups:
        answer = answers.get(group.prompt.id)
        chosen = [own for own in group.trajectories if answer and (own.turns, own.text) == answer.words]
        written += chosen[:1]
    tokens = [policy_tokens(trajectory) for trajectory in written]
    values = {
        CUT: [float(trajectory.finish_reason == "length") for trajectory in written],
        LENGTH: [float(len(own)) for own in tokens],
        REPETITION: [repetition(own) for own in tokens],
    }
    rows = []
    for metric, own in values.items():
        if own:
            rows.append({"name": name, "metric": metric, **mean_interval(own, seed=seed)._asdict()})
    return rows


def policy_tokens(trajectory: Trajectory) -> list[int]:
    """What the policy wrote."""
    pairs = zip(trajectory.token_ids, trajectory.policy_mask, strict=True)
    return [token for token, is_policy in pairs if is_policy]


def repetition(tokens: Sequence[int]) -> float:
    """The share of all runs of `RUN` tokens that stood earlier in the same answer."""
    runs = [tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0
