"""Dialogues as texts, with nothing of them left out."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.types import Candidate, Message, Prompt, Trajectory, with_turns


def dialogue_text(messages: Sequence[Message]) -> str:
    """A dialogue as people and judges read it; each turn names its role where there are several."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def whole_answers(prompt: Prompt, answers: Sequence[Candidate | Trajectory]) -> tuple[Prompt, list[str]]:
    """A prompt and its answers so that nothing of their dialogues is missing.

    Turns that all answers have in common belong to the prompt; turns that differ stand in the answers.
    """
    if len({answer.turns for answer in answers}) == 1:
        return with_turns(prompt, answers[0].turns), [answer.text for answer in answers]
    texts = [dialogue_text((*answer.turns, Message("assistant", answer.text))) for answer in answers]
    return prompt, texts
