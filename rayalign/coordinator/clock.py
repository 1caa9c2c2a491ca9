"""Where the seconds of an iteration go; what no phase claims is shown as unattributed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rayalign.storage.events import EventLog


class PhaseClock:
    """Times the named phases of one iteration from `start`, the end of the one before, whose report is in between."""

    def __init__(self, events: EventLog, iteration: int, start: float) -> None:
        self._events = events
        self._iteration = iteration
        self._start = start
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute what runs inside to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._phases[name] = self._phases.get(name, 0.0) + seconds
            self._events.write("phase", name=name, seconds=seconds, iteration=self._iteration)

    def metrics(self, end: float) -> dict[str, float]:
        """`phase/<name>` in seconds, with `phase/unattributed` and `phase/total`."""
        total = end - self._start
        rest = total - sum(self._phases.values())
        return {f"phase/{name}": s for name, s in {**self._phases, "unattributed": rest, "total": total}.items()}
