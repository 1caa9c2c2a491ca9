"""Who computes first where threads of several processes want the same cores."""

from __future__ import annotations

import os
import threading

YIELDING = 5
"""added to the niceness of a thread that yields: of a core that it shares with another one it gets a quarter"""
MOST = 19
"""the system's largest niceness"""


def yield_to_learners() -> None:
    """Let threads of other processes go before this one and those that it starts.

    Engines and rewards work for an iteration to come while learners update. The next weights wait for the learners
    alone, so these should not lose their cores to the others. Alone on a core a thread loses nothing by it.
    """
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread) + YIELDING
    os.setpriority(os.PRIO_PROCESS, thread, min(niceness, MOST))
