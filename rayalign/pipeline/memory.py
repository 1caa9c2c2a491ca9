"""Peak memory of a run: the proportional set size of this process and all that it started, summed."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil

EVERY = 10.0
"""seconds between two looks: the kernel walks every page of every process for them"""


class PeakMemory:
    """Watches while it is entered; `peak` is the largest sum so far [bytes]."""

    def __init__(self) -> None:
        self.peak = 0
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
            here = psutil.Process()
            self.peak = max(self.peak, sum(_pss(p.pid) for p in [here, *here.children(recursive=True)]))


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
