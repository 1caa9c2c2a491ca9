"""The simulated human: noise and tastes laid over utilities.

Pure: an opinion depends on the parameters, the utilities, the two answers, their order, a key (annotator and question)
and the request's seed; not on other pairs, nor on their order. Every draw belongs to the pair whatever its order, so
the other order mirrors the opinion, but for position bias.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import NamedTuple

from rayalign.config import HumanConfig

_LIST = re.compile(r"(?:^|\s)[*•]\s|^\s*(?:-|\d+[.)])\s", re.MULTILINE)


class Opinion(NamedTuple):
    """The verdict of a simulated human on a pair."""

    preference: float | None
    """1 first better, 2 second better, 1.5 a tie, None abstained"""
    explanation: str
    """the winner's side first, so that it holds for both orders"""


def holds_list(answer: str) -> bool:
    """Whether an answer holds a list: marked by a star or a dot anywhere, by a dash or a number in front of a line."""
    return _LIST.search(answer) is not None


def felt(human: HumanConfig, utility: float, answer: str) -> float:
    """The utility of an answer with the human's tastes for length and lists."""
    taste = human.length_bias * len(answer.split())
    return utility + taste + (human.list_bias if human.list_bias and holds_list(answer) else 0.0)


def opinion(human: HumanConfig, felt_as: tuple[float, float], answers: tuple[str, str], key: str, seed: int) -> Opinion:
    """One verdict.

    P(first better) = sigmoid((felt_1 + position_bias - felt_2) / temperature); a share `flip` is turned round. Equal
    answers tie, as do those felt closer than `tie`.

    Args:
        felt_as: `felt` of each answer; finite.
        answers: in the order shown.
        key: annotator and question; the same key, answers and seed give the same opinion.
        seed: of the request; it counts for the share `self_disagreement` of the pairs.
    """
    if answers[0] == answers[1]:
        return Opinion(1.5, "the answers are the same")
    first, second = felt_as[0] + human.position_bias, felt_as[1]
    low_first = answers[0] < answers[1]
    gap = first - second if low_first else second - first
    draw, turn, skip = _uniforms(human, key, answers if low_first else (answers[1], answers[0]), seed)
    if skip < human.abstain:
        return Opinion(None, "abstained")
    if abs(gap) < human.tie:
        return Opinion(1.5, f"too close to tell: {max(felt_as):.3f} and {min(felt_as):.3f}")
    turned = turn < human.flip
    low_wins = (draw < _sigmoid(gap / human.temperature)) != turned
    first_wins = low_wins == low_first
    won, lost = felt_as if first_wins else felt_as[::-1]
    slip = ", and answered the other way by a slip" if turned else ""
    return Opinion(1.0 if first_wins else 2.0, f"felt as {won:.3f} against {lost:.3f}{slip}")


def _uniforms(human: HumanConfig, key: str, ordered: tuple[str, str], seed: int) -> tuple[float, float, float]:
    """Three numbers in [0, 1): for the choice, the flip and the abstention.

    One digest holds them all: the two large numbers hardly depend on their low halves, which serve as further numbers
    (the second decides whether this pair is drawn anew under each seed).
    """
    if human.self_disagreement < 1.0:
        draw, turn = _digest("", key, *ordered)
        if _low_half(turn) >= human.self_disagreement:
            return draw / 2**64, turn / 2**64, _low_half(draw)
    draw, turn = _digest(f"{seed}", key, *ordered)
    return draw / 2**64, turn / 2**64, _low_half(draw)


def _digest(*texts: str) -> tuple[int, int]:
    digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def _low_half(number: int) -> float:
    return (number & 0xFFFFFFFF) / 2**32


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))
