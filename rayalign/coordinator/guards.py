"""Guards: limits on the metrics of an iteration, or of an offline step, that warn or stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from rayalign.config import GuardConfig
from rayalign.errors import GuardError

logger = logging.getLogger(__name__)


class Guards:
    """Watches all that a stage reports; a metric that is not finite trips each of its guards."""

    def __init__(self, limits: Sequence[GuardConfig], *, counted: str = "iteration") -> None:
        """`counted`: what the stage goes forward by, for messages."""
        self._limits = limits
        self._counted = counted
        self._strikes = [0] * len(limits)

    def watch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Warn of each guard that is tripped now; GuardError where one of them is to stop the run."""
        for index, limit in enumerate(self._limits):
            value = metrics.get(limit.metric)
            self._strikes[index] = self._strikes[index] + 1 if value is not None and _beyond(value, limit) else 0
            if value is None or self._strikes[index] < limit.patience:
                continue
            text = f"{self._counted} {number}: {limit.metric} is {value:.4g}, {_bounds(limit)}"
            if limit.action == "stop":
                raise GuardError(f"{text}; the run stops here: look at its report, change the job and run it again")
            logger.warning("%s", text)


def _beyond(value: float, limit: GuardConfig) -> bool:
    above = limit.above is not None and value > limit.above
    below = limit.below is not None and value < limit.below
    return above or below or not math.isfinite(value)


def _bounds(limit: GuardConfig) -> str:
    parts = [f"above {limit.above:g}"] if limit.above is not None else []
    parts += [f"below {limit.below:g}"] if limit.below is not None else []
    return " or ".join(parts) or "not finite"
