"""Priorities of threads where several processes want the same cores."""

from __future__ import annotations

import os
import threading

NICENESS_STEP = 5
"""added to the niceness of a thread that yields: it then gets a quarter of a core that it shares with a usual thread"""
MAX_NICENESS = 19
"""of the system"""


def yield_to_learners() -> None:
    """Lower the priority of this thread and of those that it starts.

    Engines and rewards work for a later iteration while learners update. Only the learners delay the next weights, so
    they should keep their cores. A thread that has a core to itself loses nothing.
    """
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS_STEP
    os.setpriority(os.PRIO_PROCESS, thread, min(niceness, MAX_NICENESS))
