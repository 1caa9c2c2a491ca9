"""The events of every process of a run, with their times, in one file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rayalign.storage.records import Appender, finite

RUN_STARTED = "run_started"
"""event of each start of a run, with the environment that it ran in"""


class EventLog(Appender):
    """Events of many threads and processes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, shared=True)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with its time [unix seconds] and process; a field that is not finite becomes null."""
        self.append({"time": time.time(), "event": event, "pid": os.getpid(), **finite(fields)})
