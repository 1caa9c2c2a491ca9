"""Peak memory of a run: the proportional set size of all its processes on this machine, summed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

EVERY = 10.0
"""seconds between two measurements: the kernel walks every page of every process for one"""


class PeakMemory:
    """Watches this process, the named processes and all their descendants; `peak` is the largest sum so far [bytes]."""

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self.peak = 0
        self._processes = processes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join(timeout=EVERY)

    def _watch(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(EVERY)
            running: set[int] = set()
            for pid in (os.getpid(), *self._processes()):
                with suppress(psutil.NoSuchProcess):
                    descendants = psutil.Process(pid).children(recursive=True)
                    running |= {pid, *(child.pid for child in descendants)}
            self.peak = max(self.peak, sum(map(_pss, running)))


def _pss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:  # it ended meanwhile, or is another user's
        return 0
