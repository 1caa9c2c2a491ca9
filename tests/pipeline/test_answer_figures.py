from __future__ import annotations

import pytest

from rayalign.pipeline.answer_figures import answer_rows, repetition
from rayalign.types import Candidate, FinishReason, Group, Message, Prompt, Segment, Trajectory


def group(prompt_id: str, *answers: tuple[str, tuple[int, ...], FinishReason]) -> Group:
    prompt = Prompt(prompt_id, (Message("user", "q"),))
    trajectories = []
    for place, (text, tokens, reason) in enumerate(answers):
        segments = (Segment(0, "dataset"), Segment(2, "policy", 0))
        logprobs = (0.0,) * len(tokens)
        trajectories.append(Trajectory(prompt_id, place, (8, 9, *tokens), segments, logprobs, reason, text))
    return Group(prompt_id, prompt, 0, tuple(trajectories))


def test_the_answers_that_count_are_measured() -> None:
    groups = [
        group("a", ("other", (1,), "stop"), ("best", (1, 2, 3, 1, 2, 3), "length")),
        group("b", ("plain", (1, 2, 3, 4), "stop")),
        group("c", ("dropped", (5,), "length")),
    ]
    answers = {"a": Candidate("best"), "b": Candidate("plain")}
    rows = {row["metric"]: row for row in answer_rows("ppo", groups, answers, seed=0)}
    assert {row["name"] for row in rows.values()} == {"ppo"} and {row["n"] for row in rows.values()} == {2}
    assert rows["answers_cut"]["mean"] == 0.5
    assert rows["answer_tokens"]["mean"] == 5.0
    assert rows["answer_repetition"]["mean"] == pytest.approx((1 / 4 + 0) / 2)


def test_repetition_is_the_share_of_runs_that_stood_before() -> None:
    assert repetition([]) == repetition([1, 2]) == repetition([1, 2, 3, 4]) == 0.0
    assert repetition([7] * 12) == pytest.approx(0.9)
