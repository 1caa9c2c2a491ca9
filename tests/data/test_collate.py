from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from rayalign.data.chat import train_tokenizer
from rayalign.data.collate import EncodedRow, collate_examples, collate_trajectories, encode_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, FinishReason, Group, Message, Prompt, Score, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "q"),))


def trajectory(
    ids: tuple[int, ...], segments: tuple[Segment, ...], logprobs: tuple[float, ...], finish: FinishReason
) -> Trajectory:
    return Trajectory("g", 0, ids, segments, logprobs, finish)


def groups() -> list[Group]:
    short = trajectory((5, 6, 7), (Segment(0, "template"), Segment(1, "policy", 3)), (-0.5, -0.25), "stop")
    parts = (Segment(0, "template"), Segment(1, "policy", 2), Segment(2, "environment"), Segment(3, "policy", 4))
    long = trajectory((5, 8, 9, 10, 11), parts, (-1.0, -2.0, -3.0), "length")
    scored = Group("a", PROMPT, 0, (short, long), (Score(0.5), Score(None, "timed out")))
    return [scored, Group("b", PROMPT, 0, (short,), (Score(1.0),))]


def test_trajectories_are_padded_on_the_right() -> None:
    rollouts = collate_trajectories(groups(), pad_id=1, version=5)
    assert rollouts.input_ids_BT.tolist() == [[5, 6, 7, 1, 1], [5, 8, 9, 10, 11], [5, 6, 7, 1, 1]]
    assert rollouts.attention_mask_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert rollouts.policy_mask_BT.tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 1, 1, 0, 0]]
    assert rollouts.group_B.tolist() == [0, 0, 1]


def test_an_end_token_that_is_the_padding_too_is_trained_on() -> None:
    rollouts = collate_trajectories(groups(), pad_id=7, version=5)
    assert rollouts.input_ids_BT[0].tolist() == [5, 6, 7, 7, 7]
    assert rollouts.attention_mask_BT[0].tolist() == [1, 1, 1, 0, 0]
    assert rollouts.policy_mask_BT[0].tolist() == [0, 1, 1, 0, 0]


def test_behaviour_logprobs_stand_at_their_tokens() -> None:
    rollouts = collate_trajectories(groups(), pad_id=1, version=5)
    assert rollouts.behaviour_logprobs_BT is not None
    expected = [[0, -0.5, -0.25, 0, 0], [0, -1, 0, -2, -3], [0, -0.5, -0.25, 0, 0]]
    assert rollouts.behaviour_logprobs_BT.tolist() == expected


def test_an_answer_of_the_data_set_is_trained_on_without_behaviour_and_staleness() -> None:
    own = trajectory((5, 6, 7), (Segment(0, "template"), Segment(1, "policy", 3)), (-0.5, -0.25), "stop")
    given = trajectory((5, 8, 9), (Segment(0, "template"), Segment(1, "dataset")), (), "stop")
    rollouts = collate_trajectories([Group("a", PROMPT, 5, (own, given))], pad_id=1, version=5)
    assert rollouts.policy_mask_BT.tolist() == [[0, 1, 1], [0, 1, 1]]
    assert rollouts.behaviour_logprobs_BT is not None and rollouts.staleness_B is not None
    assert rollouts.behaviour_logprobs_BT[0].tolist() == [0, -0.5, -0.25]
    assert rollouts.behaviour_logprobs_BT[1].isnan().tolist() == [False, True, True]
    assert rollouts.staleness_B.tolist() == [2, 0]


def test_scores_endings_and_staleness() -> None:
    rollouts = collate_trajectories(groups(), pad_id=1, version=5)
    assert rollouts.scores_B is not None and rollouts.ended_B is not None and rollouts.staleness_B is not None
    assert rollouts.scores_B[[0, 2]].tolist() == [0.5, 1.0]
    assert torch.isnan(rollouts.scores_B[1])
    assert rollouts.ended_B.tolist() == [1, 0, 1]
    assert rollouts.staleness_B.tolist() == [2, 3, 2]


def test_unscored_groups_have_absent_scores() -> None:
    first = groups()[0]
    rollouts = collate_trajectories([Group("a", PROMPT, 0, first.trajectories)], pad_id=1, version=5)
    assert rollouts.scores_B is not None
    assert torch.isnan(rollouts.scores_B).tolist() == [True, True]


def test_example_rows_keep_their_groups_and_scores() -> None:
    rows = [EncodedRow((4, 5), (False, True), 7, 2.0), EncodedRow((4, 5, 6), (False, True, True), 7)]
    rollouts = collate_examples(rows, 0)
    assert rollouts.input_ids_BT.tolist() == [[4, 5, 0], [4, 5, 6]]
    assert rollouts.policy_mask_BT.tolist() == [[0, 1, 0], [0, 1, 1]]
    assert rollouts.group_B.tolist() == [7, 7]
    assert rollouts.scores_B is not None
    assert rollouts.scores_B[0] == 2.0
    assert torch.isnan(rollouts.scores_B[1])


def test_examples_are_cut_alike_or_left_out_whole(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer: Any = train_tokenizer(["a b c"], 262)
    turns = (Message("user", "a" * 30), Message("assistant", "b"), Message("user", "c"))
    fits = Example(PROMPT, (Candidate("x", score=1.0), Candidate("y", score=0.0)))
    cut = Example(Prompt("long", turns), (Candidate("x"), Candidate("yyyyyyy")))
    never = Example(PROMPT, (Candidate("x"), Candidate("y" * 50)))
    with caplog.at_level(logging.WARNING):
        rows = list(encode_examples(tokenizer, [fits, never, cut], context=20))
    assert [(row.group, row.score) for row in rows] == [(0, 1.0), (0, 0.0), (2, None), (2, None)]
    texts = [tokenizer.decode(row.token_ids) for row in rows[2:]]
    assert texts == [f"<|user|>\nc\n<|assistant|>\n{answer}<|end|>" for answer in ("x", "yyyyyyy")]
    assert "3 examples: 1 lost early turns, 1 left out, to fit 20 tokens" in caplog.text


def test_only_the_answer_to_its_own_prompt_is_good_or_bad() -> None:
    tokenizer: Any = train_tokenizer(["a b c"], 262)
    example = Example(PROMPT, (Candidate("a"), Candidate("b")), desirable=0.75)
    rows = list(encode_examples(tokenizer, [example], context=30))
    assert [row.desirable for row in rows] == [0.75, None]


def test_answers_after_several_turns_are_refused() -> None:
    tokenizer: Any = train_tokenizer(["a b c"], 262)
    turns = (Message("assistant", "which ?"), Message("user", "that"))
    example = Example(PROMPT, (Candidate("x", turns=turns),))
    with pytest.raises(InputError, match="prompt p: answers after several turns cannot be trained on from a data set"):
        list(encode_examples(tokenizer, [example], context=64))
