"""Guards: limits on the metrics of an iteration, or of an offline step, that warn, stop, or send the stage back."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayalign.config import GuardConfig
from rayalign.errors import GuardError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Firing:
    """A guard that sends the stage back."""

    limit: GuardConfig
    number: int
    """of the iteration or step"""
    text: str


class Guards:
    """Watches all that a stage reports; a metric that is not finite trips each of its guards."""

    def __init__(self, limits: Sequence[GuardConfig], *, counted: str = "iteration") -> None:
        """`counted`: what the stage goes forward by, for messages."""
        self._limits = limits
        self._counted = counted
        self._strikes: list[list[int]] = [[] for _ in limits]
        """of each limit, the last numbers in a row at which its metric was out of bounds"""
        self._fired: set[int] = set()

    @property
    def roll_back(self) -> bool:
        """Whether one of them may send the stage back."""
        return any(limit.action == "rollback" for limit in self._limits)

    def watch(self, number: int, metrics: Mapping[str, float]) -> Firing | None:
        """Log each guard that is tripped now; the first of them that sends the stage back.

        Raises:
            GuardError: one of them is to stop the run.
        """
        firings: list[Firing] = []
        for limit in self._count(number, metrics):
            text = f"{self._counted} {number}: {limit.metric} is {metrics[limit.metric]:.4g}, {_bounds(limit)}"
            if limit.action == "stop":
                raise GuardError(f"{text}; the run stops here: look at its report, change the job and run it again")
            if limit.action == "rollback":
                firings.append(Firing(limit, number, text))
            else:
                logger.warning("%s", text)
        return firings[0] if firings else None

    def undefined(self, number: int, metrics: Collection[str], reason: str) -> Firing | None:
        """The first guard that sends the stage back where one of these metrics is not finite, whatever its patience."""
        for limit in self._limits:
            if limit.action == "rollback" and limit.metric in metrics:
                self._fired.add(number)
                return Firing(limit, number, reason)
        return None

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count what was reported before an interruption: rows {step, metrics}."""
        for row in rows:
            self._count(row["step"], {name: _number(value) for name, value in row["metrics"].items()})

    def is_good(self, number: int) -> bool:
        """Whether no guard fired at a number, and none that sends the stage back has been out of bounds since then."""
        for limit, strikes in zip(self._limits, self._strikes, strict=True):
            if limit.action == "rollback" and strikes and strikes[0] <= number:
                return False
        return number not in self._fired

    def _count(self, number: int, metrics: Mapping[str, float]) -> list[GuardConfig]:
        """The guards that fire."""
        firing: list[GuardConfig] = []
        for limit, strikes in zip(self._limits, self._strikes, strict=True):
            value = metrics.get(limit.metric)
            if value is None or not _beyond(value, limit):
                strikes.clear()
                continue
            strikes.append(number)
            if len(strikes) >= limit.patience:
                self._fired.add(number)
                firing.append(limit)
        return firing


def _number(value: float | None) -> float:
    """A value of a row in JSON, where what is not finite is null."""
    return math.nan if value is None else value


def _beyond(value: float, limit: GuardConfig) -> bool:
    above = limit.above is not None and value > limit.above
    below = limit.below is not None and value < limit.below
    return above or below or not math.isfinite(value)


def _bounds(limit: GuardConfig) -> str:
    parts = [f"above {limit.above:g}"] if limit.above is not None else []
    parts += [f"below {limit.below:g}"] if limit.below is not None else []
    return " or ".join(parts) or "not finite"
