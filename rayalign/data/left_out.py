"""Rows that readers leave out: counted by reason, and reported by whoever reads the rows for use."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple, Protocol

from rayalign.types import Example

log = logging.getLogger(__name__)


class Reduced(NamedTuple):
    """An example whose row has further answers."""

    example: Example
    absent: Counter[str]
    """these answers, which are left out, by reason"""


class Report(Protocol):
    """Receives what is left out."""

    def __call__(self, data: str, counts: Counter[str], what: str = "rows") -> None:
        """The name of the data, and what is left out of it by reason: rows, or answers of rows that stay."""


def log_left_out(data: str, counts: Counter[str], what: str = "rows") -> None:
    """One warning."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    log.warning("data %s: %d %s left out (%s)", data, counts.total(), what, reasons)


def no_report(data: str, counts: Counter[str], what: str = "rows") -> None:
    """For a look at the first rows, whose counts are not those of the data."""


class OncePerRun:
    """Reports what is left out of the data of a run, which several stages and the proof before them read."""

    def __init__(self, report: Report = log_left_out) -> None:
        self._report = report
        self._reported: list[tuple[str, Counter[str], str]] = []

    def __call__(self, data: str, counts: Counter[str], what: str = "rows") -> None:
        """Report it unless the same rows or answers of the same data are reported already."""
        if (data, counts, what) not in self._reported:
            self._reported.append((data, counts, what))
            self._report(data, counts, what)
