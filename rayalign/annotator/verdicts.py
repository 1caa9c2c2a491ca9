"""Verdicts and their cost, and the contract of the judges in a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rayalign.dialogues import whole_answers
from rayalign.types import Candidate, Prompt, Score

Pair = tuple[Prompt, str, str]
"""a prompt and two answers, in the order that the judge sees"""


def pair_of(prompt: Prompt, first: Candidate, second: Candidate) -> Pair:
    """Two answers with everything that was said before them."""
    question, (first_text, second_text) = whole_answers(prompt, (first, second))
    return question, first_text, second_text


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a verdict."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float = 0.0
    """US dollars"""
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.price + other.price,
            self.seconds + other.seconds,
        )


@dataclass(slots=True)
class Bill:
    """The cost of one request to a language model; its sender writes it as it becomes known."""

    cost: Usage = field(default_factory=Usage)
    """nothing before the request is sent, then the most that it can cost until the reply has its usage"""


Paying = Callable[[Usage, float, float], AbstractAsyncContextManager[Bill]]
"""Entered before a request is sent, with the most that it can cost, the longest wait for requests in flight [s], and
its own longest time [s]; settled by the bill at its end. RayalignError on entry: the request must not be sent; the
budget's BusyError: not yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One comparison, in the order that the judge saw."""

    preference: float | None
    """1 first better, 2 second better, between them 1 + P(second better), 1.5 a tie, None no verdict"""
    reason: str | None = None
    """why there is no verdict"""
    explanation: str = ""
    """the judge's ground, for people"""
    completion: str | Mapping[str, Any] | None = None
    """a language model's answer: its text, or the whole choice where token log-probs were read"""
    utilities: tuple[float, float] | None = None
    """where the judge scores each answer alone"""
    usage: Usage = field(default_factory=Usage)

    @property
    def mirrored(self) -> Verdict:
        """The same verdict for the answers in the other order."""
        preference = None if self.preference is None else 3.0 - self.preference
        utilities = None if self.utilities is None else (self.utilities[1], self.utilities[0])
        return Verdict(preference, self.reason, self.explanation, self.completion, utilities, self.usage)


class PairJudge(Protocol):
    """Compares pairs; pure but for its transport, so that its verdicts can be cached."""

    @property
    def revision(self) -> str:
        """Hash of everything that decides its verdicts: model, prompt, parser, sampling, noise."""

    @property
    def batch(self) -> int:
        """The best number of pairs for one call."""

    async def judge(self, pairs: Sequence[Pair], *, seed: int, paying: Paying) -> list[Verdict]:
        """One verdict for each pair; a failure is a verdict without preference, never an exception.

        Args:
            paying: around every request that costs something.
        """


class Scoring(Protocol):
    """A judge that also scores single answers."""

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score for each answer; higher is better, absent with a reason."""
