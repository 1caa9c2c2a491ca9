"""Who says which of two answers is better."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from rayalign.config import JudgeConfig
from rayalign.types import Prompt

Pair = tuple[Prompt, str, str]
"""a prompt and two answers"""


class Judge(Protocol):
    """Compares answers, in AlpacaFarm's convention."""

    def compare(self, pairs: Sequence[Pair], *, seed: int) -> list[float | None]:
        """For each pair 1 (first better), 2 (second better), between them a probability, 1.5 a tie, None no verdict."""


class RubricJudge:
    """A simulated labeller of the embedded world: Bradley-Terry draws on the gold utility, with named biases.

    P(first better) = sigmoid((u_first - u_second) / temperature), u = gold utility + length_bias x words of the answer;
    then a share `flip` of the verdicts is turned round. A verdict depends on seed, prompt and answers alone, not on
    order or batch, and swapping the answers mirrors it. Equal answers tie.
    """

    def __init__(self, config: JudgeConfig, utility: Callable[[Prompt, str], float] | None = None) -> None:
        if utility is None:
            from rayalign.data.paddock import gold

            utility = gold.utility
        self._config = config
        self._gold = utility

    def compare(self, pairs: Sequence[Pair], *, seed: int) -> list[float | None]:
        """As `Judge.compare`; always a verdict."""
        return [self._verdict(prompt, first, second, seed) for prompt, first, second in pairs]

    def _verdict(self, prompt: Prompt, first: str, second: str, seed: int) -> float:
        if first == second:
            return 1.5
        low, high = sorted((first, second))
        gap = (self._utility(prompt, low) - self._utility(prompt, high)) / self._config.temperature
        draw, turn = _uniforms(f"{seed}", prompt.id, low, high)
        low_wins = (draw < _sigmoid(gap)) != (turn < self._config.flip)
        return 1.0 if low_wins == (first == low) else 2.0

    def _utility(self, prompt: Prompt, answer: str) -> float:
        return self._gold(prompt, answer) + self._config.length_bias * len(answer.split())


def _uniforms(*texts: str) -> tuple[float, float]:
    """Two numbers in [0, 1) that depend on the texts alone."""
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:], "big") / 2**64


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))
