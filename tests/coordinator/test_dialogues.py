from __future__ import annotations

from dataclasses import fields, replace

from rayalign.config import SamplingConfig
from rayalign.coordinator.dialogues import Dialogue
from rayalign.rollout.base import Finished, Request
from rayalign.types import Message, Prompt, Segment, Trajectory

REQUEST = Request("g/3", (1, 2, 3, 4, 5, 6), seed=0, sampling=SamplingConfig(), stop_ids=(9,))
PROMPT = Prompt("p", (Message("user", "hi"),))
BEFORE = Trajectory(
    group_id="g",
    index=3,
    token_ids=(1, 2, 3, 4, 5, 6),
    segments=(Segment(0, "template"), Segment(2, "policy", 1), Segment(4, "environment")),
    logprobs=(-0.5, -0.25),
    finish_reason="stop",
    text="first",
    turns=(Message("assistant", "first"), Message("user", "and?")),
    reward=0.5,
)
WRITTEN = {"token_ids", "segments", "logprobs", "finish_reason", "text"}
"""fields that a turn of the policy changes"""


def test_a_turn_is_appended_with_the_versions_that_wrote_it() -> None:
    dialogue = Dialogue(PROMPT, BEFORE, REQUEST)
    dialogue.write(Finished("g/3", (7, 8, 9), (-1.0, -2.0, -3.0), ((0, 4), (2, 5)), "length"), "second")
    after = dialogue.trajectory
    assert after.token_ids == (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert after.segments == (*BEFORE.segments, Segment(6, "policy", 4), Segment(8, "policy", 5))
    assert after.logprobs == (-0.5, -0.25, -1.0, -2.0, -3.0)
    assert (after.finish_reason, after.text, dialogue.turns) == ("length", "second", 1)


def test_a_turn_keeps_every_field_that_it_does_not_change() -> None:
    """`write` names the fields one by one: one that the record gets later must not be reset without a word."""
    defaults = Trajectory("", 0, (), (), (), "stop")
    kept = [field.name for field in fields(Trajectory) if field.name not in WRITTEN]
    unset = [name for name in kept if getattr(BEFORE, name) == getattr(defaults, name)]
    assert unset == [], "give the record above a value of its own there"
    dialogue = Dialogue(PROMPT, BEFORE, REQUEST)
    dialogue.write(Finished("g/3", (7,), (-1.0,), ((0, 4),), "stop"), "second")
    changed = {name: getattr(dialogue.trajectory, name) for name in WRITTEN}
    assert dialogue.trajectory == replace(BEFORE, **changed)
