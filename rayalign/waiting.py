"""Waits on what has no deadline of its own: reports, so that nobody looks at a silent terminal, and deadlines."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from rayalign.errors import DeadlineError

T = TypeVar("T")

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


def finished_within(function: Callable[[], T], seconds: float, late: str) -> T:
    """What a function returns, called in a thread of its own, which is left alone where it never ends.

    Raises:
        DeadlineError: it has not ended in time, with what `late` says.
    """
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # raised in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=call, name="deadline", daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError as error:
        if outcome.done():  # the function's own
            raise
        raise DeadlineError(late) from error


@contextmanager
def interrupted_after(seconds: float, late: str) -> Iterator[None]:
    """Within it, the main thread is interrupted by a DeadlineError after so many seconds; other threads are not.

    It is for calls that have to stay in the main thread. An alarm that is set already goes off in its time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise DeadlineError(late)

    begin = time.monotonic()
    before = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 0.001), interval)
