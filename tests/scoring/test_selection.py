from __future__ import annotations

import pytest

from rayalign.scoring.selection import best_candidates, extremes, scored_example
from rayalign.types import Candidate, Example, Group, Prompt, Score, Segment, Trajectory


def group(*values: float | None, absent: tuple[int, ...] = ()) -> Group:
    """Candidates 0, 1, ... but for the absent ones; each answers with its number."""
    indices = [index for index in range(len(values) + len(absent)) if index not in absent]
    trajectories = tuple(
        Trajectory("g", index, (1, 2), (Segment(0, "template"),), (), "stop", str(index)) for index in indices
    )
    return Group("g", Prompt("p", ()), 0, trajectories, tuple(Score(value) for value in values))


@pytest.mark.parametrize(
    ("values", "n", "best"),
    [
        ((0.1, 0.9, 0.5), 3, [1]),
        ((0.9, 0.9, 0.5), 3, [0]),  # a tie goes to the first
        ((None, -3.0, None), 3, [1]),  # a missing score never wins
        ((None, None), 2, []),
        ((0.1, 0.2, 0.4, 0.3), 2, [1, 2]),
        ((None, None, 0.4, 0.3), 2, [2]),
        ((0.1, 0.2), 1, [0, 1]),
    ],
)
def test_the_best_of_each_n(values: tuple[float | None, ...], n: int, best: list[int]) -> None:
    assert best_candidates(group(*values), n) == best


def test_an_absent_candidate_leaves_its_answer_to_the_others() -> None:
    # candidates 0, 2 and 3 are there: 0 stands alone in the first answer
    assert best_candidates(group(0.1, 0.2, 0.4, absent=(1,)), 2) == [0, 2]


def test_all_candidates_keep_their_scores() -> None:
    example = scored_example(group(0.5, None), "stage:sft")
    assert [(c.text, c.score, c.source) for c in example.candidates] == [
        ("0", 0.5, "stage:sft"),
        ("1", None, "stage:sft"),
    ]
    unscored = Group("g", Prompt("p", ()), 0, group(1.0).trajectories)
    assert scored_example(unscored, "m").candidates[0].score is None


@pytest.mark.parametrize(
    ("scores", "texts"),
    [
        ((0.2, None, 0.9, 0.1), ["2", "3"]),
        ((0.9, 0.9, 0.1, 0.1), ["0", "2"]),  # the first of equal ones
        ((0.5, 0.5, None), None),
        ((0.5,), None),
        ((None, None), None),
    ],
)
def test_the_best_and_the_worst_of_a_prompt(scores: tuple[float | None, ...], texts: list[str] | None) -> None:
    candidates = tuple(Candidate(str(place), score=score) for place, score in enumerate(scores))
    pair = extremes(Example(Prompt("p", ()), candidates))
    assert (pair and [candidate.text for candidate in pair.candidates]) == texts
