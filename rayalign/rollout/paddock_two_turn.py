"""The embedded world's two-turn family: a question without its subject, which the policy may ask back for.

    what is the colour ?  ->  of whom ?  ->  i mean tom .  ->  the colour of tom is red .
          prompt              policy         environment          policy

A policy that answers at once cannot know the subject, and ends the dialogue.
"""

from __future__ import annotations

from rayalign.data.paddock.two_turn import SUBJECT, asks_back
from rayalign.errors import InputError
from rayalign.rollout.environment import Reply, Turns
from rayalign.types import Prompt, Trajectory


class PaddockTwoTurn:
    """Names the subject to a policy that asks for it."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        """
        Raises:
            InputError: the prompt is not one of the splits that open with the question alone.
        """
        if SUBJECT not in prompt.meta:
            raise InputError(
                f"prompt {prompt.id} has no `{SUBJECT}`; take the split two_turn or two_turn_test of paddock"
            )
        self._subject = prompt.meta[SUBJECT]
        self._turns = turns

    def step(self, trajectory: Trajectory) -> Reply:
        """Say whom the question is about, once."""
        if trajectory.turns or not asks_back(trajectory.text):
            return Reply()
        return self._turns.user(self._subject)
