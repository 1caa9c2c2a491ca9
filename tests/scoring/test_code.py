"""Code by dotted path: this module's own functions and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.scoring.code import CodeScorer
from rayalign.types import Group, Message, Prompt, Score, ScorePart, Segment, Trajectory

NUMBER = 3


def count(prompt: Prompt, answer: str, *, factor: float = 1.0) -> Any:
    if answer == "raise":
        raise ValueError("no such word")
    special = {"none": None, "nan": float("nan"), "score": Score(None, "unsure"), "true": True}
    return special.get(answer, len(answer) * factor)


class Counter:
    def __init__(self, factor: float) -> None:
        self._factor = factor

    def __call__(self, prompt: Prompt, answer: str) -> float:
        return len(answer) * self._factor


class Whole:
    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        if groups[0].id == "bad":
            raise RuntimeError("away")
        return [tuple(Score(float(t.index)) for t in group.trajectories) for group in groups]


def group(name: str, *answers: str) -> Group:
    rows = [
        Trajectory(name, i, (1,), (Segment(0, "policy", 0),), (0.0,), "stop", text) for i, text in enumerate(answers)
    ]
    return Group(name, Prompt(name, (Message("user", "x"),)), 0, tuple(rows))


def test_a_function_scores_each_answer_with_its_settings() -> None:
    scorer = CodeScorer(f"{__name__}:count", {"factor": 0.5})
    assert scorer.score([group("a", "four", "no"), group("b", "true")]) == [(Score(2.0), Score(1.0)), (Score(1.0),)]


def test_what_is_no_number_is_absent_with_the_reason() -> None:
    (scores,) = CodeScorer(f"{__name__}:count", {}).score([group("a", "raise", "none", "nan", "score", "fine")])
    assert [score.value for score in scores] == [None, None, None, None, 4.0]
    reasons = [score.reason or "" for score in scores]
    assert reasons[0].endswith("count raised ValueError: no such word")
    assert reasons[1].endswith("count returned NoneType, not a number")
    assert reasons[2].endswith("count returned nan")
    assert reasons[3] == "unsure"


def graded(prompt: Prompt, answer: str) -> Any:
    nan = float("nan")
    grades = {
        "single": np.float32(0.5),
        "whole": np.int64(2),
        "nan": Score(nan, "sure"),
        "infinite": Score(np.float32("inf")),
        "text": Score("high"),  # type: ignore[arg-type]
        "part": Score(None, None, (ScorePart("a", 1.0), ScorePart("b", nan))),
    }
    return grades[answer]


def test_numbers_of_numpy_are_scores() -> None:
    ((single, whole),) = CodeScorer(f"{__name__}:graded", {}).score([group("a", "single", "whole")])
    assert [single, whole] == [Score(0.5), Score(2.0)]
    assert {type(single.value), type(whole.value)} == {float}


def test_a_score_of_no_finite_number_is_absent_with_the_reason() -> None:
    (scores,) = CodeScorer(f"{__name__}:graded", {}).score([group("a", "nan", "infinite", "text", "part")])
    assert [score.value for score in scores] == [None] * 4
    reasons = [str(score.reason).rpartition("graded ")[2] for score in scores[:3]]
    assert reasons == ["returned nan", "returned inf", "returned str, not a number"]
    assert scores[3].parts == (ScorePart("a", 1.0), ScorePart("b", None, f"{__name__}:graded returned nan"))


def test_a_class_is_made_once_with_its_settings() -> None:
    assert CodeScorer(f"{__name__}:Counter", {"factor": 2}).score([group("a", "ab")]) == [(Score(4.0),)]


def test_a_scorer_scores_whole_groups_and_its_failure_is_absent() -> None:
    scorer = CodeScorer(f"{__name__}:Whole", {})
    assert scorer.score([group("a", "x", "y")]) == [(Score(0.0), Score(1.0))]
    (scores,) = scorer.score([group("bad", "x", "y")])
    assert [score.value for score in scores] == [None, None]
    assert str(scores[1].reason).endswith("Whole raised RuntimeError: away")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("missing", {}, "cannot be imported"),
        ("NUMBER", {}, "neither a function nor a class"),
        ("Counter", {"size": 2}, "cannot be made with settings"),
    ],
)
def test_code_that_cannot_be_used_is_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CodeScorer(f"{__name__}:{name}", settings)
