"""User code that imports well and fails when it is called, for benchmarks/rehearsal_mistakes.yaml."""

from __future__ import annotations

from typing import Any

from rayalign.rollout.environment import Reply
from rayalign.types import Prompt, Trajectory


def raises(prompt: Prompt, answer: str) -> float:
    """A key that the prompts do not have."""
    return float(prompt.meta["target"])


def returns_text(prompt: Prompt, answer: str) -> Any:
    """A number as a text."""
    return "1.0"


class NeedsSetting:
    """A setting that the job does not give."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    def __call__(self, prompt: Prompt, answer: str) -> float:
        """The same score for all."""
        return 1.0


class Breaks:
    """An environment that can be made, and fails at the first answer."""

    def __init__(self, prompt: Prompt, turns: Any) -> None:
        self._prompt = prompt

    def step(self, trajectory: Trajectory) -> Reply:
        """Never replies."""
        raise RuntimeError("the game is broken")
