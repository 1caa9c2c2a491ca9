"""Reports of waits, so that nobody looks at a silent terminal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
FIRST = 2.0
"""seconds until a wait is reported"""
AGAIN = 15.0
"""seconds between two reports of the same wait"""


@contextmanager
def reported(
    what: str | Callable[[], str],
    report: Callable[[str], object] = logger.warning,
    *,
    first: float = FIRST,
    again: float = AGAIN,
) -> Iterator[None]:
    """Within it, a wait that takes longer than `first` seconds is reported, and from then on every `again` seconds.

    Args:
        what: is waited for and why, as it follows "waiting for"; called in a thread of its own where it can change.
    """
    started = time.monotonic()
    ended = threading.Event()

    def watch() -> None:
        pause = first
        while not ended.wait(pause):
            reason = what if isinstance(what, str) else what()
            report(f"waiting for {reason} ({time.monotonic() - started:.0f} s)")
            pause = again

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1.0)
