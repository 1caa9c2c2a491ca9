"""The two-turn family as a dialogue that is still to be held: the prompt is its first turn alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rayalign.data.paddock.tasks import CLARIFY, Dialogue
from rayalign.types import Message, Prompt

TWO_TURN = {"two_turn": 600, "two_turn_test": 150}
"""split -> prompts where no count is given"""
SUBJECT = "subject"
"""key of `Prompt.meta`: the turn that says whom the question is about"""
TRAIN_PERCENT = 80
"""share of the dialogues in the split `two_turn`; `two_turn_test` has the rest"""


def split_of_opening(dialogue: Dialogue) -> str:
    """The one split that a dialogue of this family belongs to."""
    percent = int.from_bytes(hashlib.sha256(_open_text(dialogue).encode()).digest()[:4], "big") % 100
    return "two_turn" if percent < TRAIN_PERCENT else "two_turn_test"


def asked_alike(dialogue: Dialogue) -> Dialogue:
    """The dialogue with one wording of its second turn, which is the policy's to write."""
    return (dialogue[0], Message("assistant", CLARIFY[1][0]), dialogue[2])


def opening(prompt: Prompt) -> Prompt:
    """The first turn of a whole dialogue, with the one that names the subject kept in `meta`."""
    digest = hashlib.sha256(_open_text(prompt.messages).encode()).hexdigest()
    meta = {**prompt.meta, SUBJECT: prompt.messages[-1].content}
    return replace(prompt, id=f"two_turn-{digest[:12]}", messages=prompt.messages[:1], meta=meta)


def asks_back(text: str) -> bool:
    """Whether the text asks whom the question is about."""
    return " ".join(text.split()) in CLARIFY[1]


def _open_text(dialogue: Dialogue) -> str:
    return f"{dialogue[0].content} / {dialogue[-1].content}"
