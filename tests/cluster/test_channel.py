"""What becomes of engines that deviate from the probe, with a pool of stand-ins: no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from rayalign.cluster.channel import prove
from rayalign.cluster.pool import GeneratorPool
from rayalign.errors import WeightError
from rayalign.weights.probe import Probe

PROBE = Probe(3, ((1, 2, 3),), ((-1.0, -2.0),), tolerance=1e-3)


@dataclass
class AnsweringPool:
    """Engines by name, each with the log-probs that it computes; remembers whom it discarded, and why."""

    answers: dict[str, list[list[float]]]
    discarded: dict[str, str] = field(default_factory=dict)

    async def every(self, call: Callable[[Any], Any], timeout: float) -> list[tuple[str, list[list[float]]]]:
        return list(self.answers.items())

    async def discard(self, actor: str, error: Exception) -> None:
        self.discarded[actor] = str(error)

    def enlist(self, actor: str) -> None:
        pass


def prove_with(**answers: list[list[float]]) -> tuple[float, AnsweringPool]:
    pool = AnsweringPool(answers)
    return asyncio.run(prove(cast("GeneratorPool", pool), PROBE, 1.0)), pool


def test_one_engine_that_deviates_is_discarded_and_the_run_goes_on() -> None:
    gap, pool = prove_with(good=[[-1.0, -2.0001]], stale=[[-1.0, -2.5]], also_good=[[-1.0, -2.0]])
    assert gap == pytest.approx(1e-4 / 2**0.5)
    assert list(pool.discarded) == ["stale"]
    assert "version 3" in pool.discarded["stale"]


def test_weights_that_no_engine_agrees_with_end_the_run() -> None:
    with pytest.raises(WeightError, match="stale, mixed or cast"):
        prove_with(first=[[-1.0, -2.5]], second=[[-1.5, -2.0]])
