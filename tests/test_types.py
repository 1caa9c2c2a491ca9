from __future__ import annotations

from rayalign.types import Group, Message, Prompt, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "q"),))
TURNS = (
    Segment(0, "template"),
    Segment(2, "policy", 4),
    Segment(3, "environment"),
    Segment(5, "policy", 5),
)


def test_masks_derive_from_segments() -> None:
    trajectory = Trajectory("g", 0, tuple(range(7)), TURNS, (-1.0, -2.0, -3.0), "stop")
    assert trajectory.policy_mask == [False, False, True, False, False, True, True]
    assert trajectory.loss_mask == trajectory.policy_mask
    assert trajectory.spans == [("template", 0, 2), ("policy", 2, 3), ("environment", 3, 5), ("policy", 5, 7)]


def test_an_answer_of_the_data_set_is_trained_on_and_no_policy_wrote_it() -> None:
    trajectory = Trajectory("g", 0, (1, 2, 3), (Segment(0, "template"), Segment(1, "dataset")), (), "stop")
    assert trajectory.policy_mask == [False] * 3
    assert trajectory.loss_mask == [False, True, True]
    assert trajectory.version is None


def test_staleness_counts_from_the_oldest_policy_segment() -> None:
    turns = Trajectory("g", 0, tuple(range(7)), TURNS, (-1.0, -2.0, -3.0), "stop")
    given = Trajectory("g", 1, (1, 2, 3), (Segment(0, "template"), Segment(1, "dataset")), (), "stop")
    assert turns.version == 4
    assert Group("g", PROMPT, 6, (turns, given)).version == 4
    assert Group("g", PROMPT, 6, (given,)).version == 6
