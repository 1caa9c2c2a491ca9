"""Environments: the other side of a dialogue that the policy writes several turns of.

    turn written -> step(trajectory) -> Reply(tokens to append, done, reward) -> done: the candidate is complete
        ^                                        |
        +---------- request with the longer prefix

An environment is made for one candidate, as `kind(prompt, turns)`, and its `step` is called after each of the
candidate's turns, in a thread of its own. A job names it: `single_turn`, `paddock_two_turn` or `package.module:Class`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rayalign.config import nearest
from rayalign.errors import InputError
from rayalign.types import Message, Prompt, Trajectory
from rayalign.user_code import import_dotted

KNOWN = {
    "single_turn": "rayalign.rollout.environment:SingleTurn",
    "paddock_two_turn": "rayalign.rollout.paddock_two_turn:PaddockTwoTurn",
}
"""name in a job -> class"""


@dataclass(frozen=True, slots=True)
class Reply:
    """The environment's answer to one turn of the policy."""

    token_ids: tuple[int, ...] = ()
    """appended to the candidate, up to where the policy's next turn begins; not trained on"""
    done: bool = True
    """True: the candidate is complete, and nothing is appended"""
    reward: float | None = None
    """added to the candidate's score; None: nothing to add"""
    messages: tuple[Message, ...] = ()
    """the appended tokens as messages, for scorers that read text"""

    def __post_init__(self) -> None:
        """Refuse replies that no dialogue can go on from."""
        if not self.done and not self.token_ids:
            raise InputError("a reply that is not done must append tokens; return Turns.user(text), or done=True")
        if self.reward is not None and not math.isfinite(self.reward):
            raise InputError(f"a reward of {self.reward} is not finite; return None where there is none")


class Turns:
    """Makes replies in the tokens of the policy's chat template."""

    def __init__(self, encode: Callable[[Sequence[Message]], tuple[int, ...]]) -> None:
        """`encode`: messages that follow a closed answer -> token ids, as `rayalign.data.chat.encode_turn`."""
        self._encode = encode

    def user(self, text: str, *, reward: float | None = None) -> Reply:
        """The user says `text`, and the policy is to answer."""
        messages = (Message("user", text),)
        return Reply(self._encode(messages), done=False, reward=reward, messages=messages)


class Environment(Protocol):
    """The other side of one candidate's dialogue."""

    def step(self, trajectory: Trajectory) -> Reply:
        """Answer the policy's last turn, whose text is `trajectory.text`; `trajectory.turns` are the turns before it.

        Of a turn that was cut (`finish_reason` is not `stop`) only the reward counts. What it raises makes the
        candidate absent, with the reason.
        """


EnvironmentKind = Callable[[Prompt, Turns], Environment]


class SingleTurn:
    """The trivial environment: one answer, and no reply."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        """Needs neither."""

    def step(self, trajectory: Trajectory) -> Reply:
        """The candidate is complete."""
        return Reply()


def load_environment(name: str) -> EnvironmentKind:
    """The class that a job names.

    Raises:
        InputError: there is none of that name (with the nearest one), or it cannot be imported.
    """
    path = KNOWN.get(name, name)
    if ":" not in path:
        raise InputError(f"environment {name!r} is not known; {nearest(name, sorted(KNOWN))}")
    kind: Any = import_dotted(path, "package.module:Class")
    if not callable(getattr(kind, "step", None)):
        raise InputError(f"environment {name}: has no method step(trajectory); see docs/extending.md")
    environment: EnvironmentKind = kind
    return environment
