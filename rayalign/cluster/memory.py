"""Peak memory of a run: the proportional set size of all its processes on this machine, summed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

EVERY = 10.0
"""seconds between two looks; to measure, the kernel walks every page of every process"""


class PeakMemory:
    """Watches this process, the named processes and all their descendants; `peak` is the largest sum so far [bytes]."""

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self.peak = 0
        self._resident = 0
        """sum of the resident sets when the peak was measured [bytes]"""
        self._processes = processes
        self._looking = threading.Lock()
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
            self.look()

    def look(self) -> None:
        """Measure now, as a run does that ends before the first look.

        Pages are walked only where the resident sets, which cost nothing to read, are larger than at any measurement
        before.
        """
        with self._looking:
            running = self._running()
            resident = sum(map(_rss, running))
            if resident <= self._resident:
                return
            self._resident = resident
            self.peak = max(self.peak, sum(map(_pss, running)))

    def _running(self) -> set[int]:
        running: set[int] = set()
        for pid in (os.getpid(), *self._processes()):
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(pid).children(recursive=True)
                running |= {pid, *(child.pid for child in children)}
        return running


def _rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it ended meanwhile, or is another user's
        return 0


def _pss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:  # it ended meanwhile, or is another user's
        return 0
