"""Rows that readers leave out: counted by reason, and reported by whoever reads the rows for use."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

log = logging.getLogger(__name__)

Report = Callable[[str, Counter[str]], None]
"""receives the name of the data, and the rows left out by reason"""


def log_left_out(data: str, counts: Counter[str]) -> None:
    """One warning."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    log.warning("data %s: %d rows left out (%s)", data, counts.total(), reasons)


def no_report(data: str, counts: Counter[str]) -> None:
    """For a look at the first rows, whose counts are not those of the data."""


class OncePerRun:
    """Reports what is left out of the data of a run, which several stages and the proof before them read."""

    def __init__(self, report: Report = log_left_out) -> None:
        self._report = report
        self._reported: list[tuple[str, Counter[str]]] = []

    def __call__(self, data: str, counts: Counter[str]) -> None:
        """Report it unless the same rows of the same data are reported already."""
        if (data, counts) not in self._reported:
            self._reported.append((data, counts))
            self._report(data, counts)
