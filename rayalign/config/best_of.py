"""Best-of-n as a way of decoding: several candidates, of which the best-scored one is the answer."""

from __future__ import annotations

from pydantic import PositiveInt

from rayalign.config.rewards import CombineKind, Reward, Rewarded
from rayalign.config.sections import Section


class BestOf(Rewarded, Section):
    """Each answer is the best of `n` candidates (Stiennon 2020, section 3.3; AlpacaFarm, section 3.3)."""

    n: PositiveInt = 1
    """1: nothing is scored, and the answer is the only candidate"""
    reward: Reward
    """as of a train stage; `rules:majority` is a vote among the candidates"""
    combine: CombineKind | None = None
    """as of a train stage"""
