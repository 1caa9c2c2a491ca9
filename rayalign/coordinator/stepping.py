"""Blocking calls, such as environments' steps, each in a thread of its own: one that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TypeVar

from rayalign.errors import DeadlineError

T = TypeVar("T")


async def in_thread(function: Callable[[], T], timeout: float) -> T:
    """The function's result.

    The thread is a daemon, so that one that never returns keeps neither a worker of a pool nor the process.

    Raises:
        DeadlineError: no result within `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def fail(kind: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            _answer(loop, future, lambda: future.set_exception(error))
        return True

    def work() -> None:
        with ExitStack() as watch:
            watch.push(fail)
            result = function()
            _answer(loop, future, lambda: future.set_result(result))

    threading.Thread(target=work, name="blocking call", daemon=True).start()
    try:
        return await asyncio.wait_for(future, timeout)
    except TimeoutError as error:
        if not future.cancelled():
            raise  # the function's own
        raise DeadlineError(f"no answer within {timeout:g} s") from error


def _answer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], answer: Callable[[], None]) -> None:
    """Settle a future from another thread; nobody waits any more where it, or its loop, has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(lambda: None if future.done() else answer())
