"""What happened when, from every process of a run, in one file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rayalign.storage.records import dumps, finite


class EventLog:
    """An append-only file that many threads and processes may share: each event is one O_APPEND write."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, event: str, **fields: Any) -> None:
        """Add one event with its time [unix seconds] and process; a field that is not finite becomes null."""
        row = {"time": time.time(), "event": event, "pid": os.getpid(), **finite(fields)}
        self._file.write((dumps(row) + "\n").encode())

    def close(self) -> None:
        """Write no more."""
        self._file.close()
