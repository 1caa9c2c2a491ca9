import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.algorithms.group_relative import relative_advantages
from rayalign.types import Group, Prompt, Score, Segment, Trajectory


def group(*scores: float | None, cut: tuple[int, ...] = ()) -> Group:
    trajectories = []
    for index in range(len(scores)):
        reason = "length" if index in cut else "stop"
        trajectories.append(Trajectory("g", index, (1,), (Segment(0, "policy", 0),), (0.0,), reason))
    return Group("g", Prompt("p", ()), 0, tuple(trajectories), tuple(Score(score) for score in scores))


def rejects(group: Group, **settings: object) -> bool:
    reason = load({"name": "grpo", "max_rejections": 5, **settings}).reject(group)
    assert reason in (None, "all scores are equal")
    return reason is not None


def test_a_group_of_equal_scores_is_rejected():
    assert load({"name": "grpo", "max_rejections": 5}).max_rejections == 5
    assert load({"name": "grpo"}).max_rejections == 0
    assert rejects(group(1.0, 1.0, 1.0)) and rejects(group(1.0, None, 1.0))
    assert not rejects(group(1.0, 0.0, 1.0))


@pytest.mark.parametrize("normalised", [False, True])
def test_scores_are_compared_as_those_of_cut_answers_are_set(normalised):
    settings = {"normalise_scores": normalised}
    for policy in ("replace", "subtract"):
        assert not rejects(group(1.0, 1.0, cut=(1,)), missing_eos=policy, **settings)
        assert rejects(group(1.0, 1.0, cut=(0, 1)), missing_eos=policy, **settings)
    assert rejects(group(1.0, 1.0, cut=(1,)), missing_eos="keep", **settings)
    assert rejects(group(2.0, 1.0, cut=(0, 1)), missing_eos="replace", **settings)
    assert not rejects(group(2.0, 1.0, cut=(0, 1)), missing_eos="subtract", **settings)


def test_an_answer_that_has_the_score_of_cut_ones_equals_them_unless_scores_are_normalised():
    alike = group(-1.0, 3.0, cut=(1,))
    assert rejects(alike, missing_eos="replace")
    assert not rejects(alike, missing_eos="replace", normalise_scores=True)


def test_scores_are_compared_as_they_are_clipped():
    assert rejects(group(3.0, 4.0), score_clip=2.0)
    assert not rejects(group(1.0, 4.0), score_clip=2.0)
    assert not rejects(group(3.0, 4.0), score_clip=2.0, normalise_scores=True)


def test_groups_may_differ_in_size():
    scores = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 8.0], dtype=torch.float64)
    advantages = relative_advantages(scores, torch.tensor([9, 9, 4, 0, 0, 0]), kind="rloo")
    assert advantages.tolist() == [-2.0, 2.0, 0.0, -3.0, -3.0, 6.0]
