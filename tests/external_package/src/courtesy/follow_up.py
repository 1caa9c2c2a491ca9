"""An environment: a customer who answers once, and is content where the second reply thanks."""

from __future__ import annotations

from rayalign.rollout.environment import Reply, Turns
from rayalign.types import Prompt, Trajectory


class FollowUp:
    """Made anew for each candidate."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        self._topic = prompt.meta["topic"]
        self._turns = turns

    def step(self, trajectory: Trajectory) -> Reply:
        """Ask about the topic after the first reply; judge the second."""
        if not trajectory.turns:
            return self._turns.user(f"and the {self._topic} ?", reward=0.0)
        return Reply(reward=1.0 if "thank" in trajectory.text else 0.0)
