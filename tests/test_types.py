from __future__ import annotations

from rayalign.dialogues import dialogue_text, whole_answers
from rayalign.types import Candidate, Group, Message, Prompt, Segment, Trajectory

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


def test_a_dialogue_reads_whole_and_one_turn_reads_bare() -> None:
    assert dialogue_text(PROMPT.messages) == "q"
    turns = (*PROMPT.messages, Message("assistant", "of whom ?"), Message("user", "of tom ."))
    assert dialogue_text(turns) == "user: q\n\nassistant: of whom ?\n\nuser: of tom ."


def test_turns_in_common_belong_to_the_prompt_and_others_to_the_answers() -> None:
    asked = (Message("assistant", "of whom ?"), Message("user", "of tom ."))
    same = [Candidate("red", turns=asked), Candidate("blue", turns=asked)]
    prompt, texts = whole_answers(PROMPT, same)
    assert prompt.messages == (*PROMPT.messages, *asked) and texts == ["red", "blue"]
    prompt, texts = whole_answers(PROMPT, [same[0], Candidate("green")])
    assert prompt == PROMPT
    assert texts == ["assistant: of whom ?\n\nuser: of tom .\n\nassistant: red", "green"]
