"""An algorithm of a user's own, whose settings name models in a list."""

from __future__ import annotations

from rayalign.algorithms.base import AlgorithmConfig
from rayalign.algorithms.reward import Reward


class TaughtConfig(AlgorithmConfig):
    """Settings with references further down."""

    teachers: list[dict[str, str]] = []


class Taught(Reward):
    """Reward training, as far as these tests go."""

    Config = TaughtConfig
