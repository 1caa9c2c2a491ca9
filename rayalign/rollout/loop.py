"""The loop around an engine.

    callers (any thread)                     the engine's thread
    submit, call, pause, resume  -> queue ->  task, step, task, step, ...   a step puts the next one at the queue's end
    collect  <- finished candidates           idle: waits on the queue

The thread creates the engine, and nothing else touches it. Whatever a caller puts in is done between two steps.
The first exception of any task ends the loop: no task runs after it, and each later call raises an error caused by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from threading import Condition
from typing import TypeVar

from rayalign.cores import yield_to_learners
from rayalign.errors import ActorError, DeadlineError, RayalignError
from rayalign.rollout.base import Engine, Finished, Request

T = TypeVar("T")


class EngineLoop:
    """One engine with the thread that steps it; see the picture above."""

    def __init__(self, factory: Callable[[], Engine], *, yields: bool = False) -> None:
        """
        Args:
            yields: the engine computes on cores that learners want too.
        """
        self._changed = Condition()
        self._finished: list[Finished] = []
        self._failure: BaseException | None = None
        self._paused = False
        self._stepping = False
        self._began: float | None = None
        """when the thread began what it does now; None: it is idle"""
        beginning = yield_to_learners if yields else None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine", initializer=beginning)
        self._engine: Future[Engine] = self._put(factory)

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand candidates in; they come out of `collect`. ActorError once the loop has ended."""
        self._refuse_if_ended()
        self._put(lambda: self._take(requests))

    def collect(self, timeout: float) -> list[Finished]:
        """Wait for finished candidates: all there are as soon as there is one, none after `timeout` seconds.

        Raises:
            ActorError: the loop has ended, and everything that was finished before has been collected.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._finished or self._failure), timeout)
            finished, self._finished = self._finished, []
        if not finished:
            self._refuse_if_ended()
        return finished

    def call(self, function: Callable[[Engine], T], timeout: float) -> T:
        """The function's result, computed between two steps.

        Raises:
            DeadlineError: no answer after `timeout` seconds; a function that has not begun by then never will.
            ActorError: it failed, or the loop has ended.
        """
        self._refuse_if_ended()
        future = self._put(lambda: function(self._engine.result()))
        if future not in wait([future], timeout).done:
            future.cancel()
            raise DeadlineError(
                f"the engine did not answer within {timeout:g} s; raise the timeout or replace the engine"
            )
        error = future.exception()
        if error is None:
            return future.result()
        raise _explained(error)

    def working(self) -> float:
        """Seconds since the thread began what it does now; 0 where it is idle. An engine that hangs is never done."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def pause(self, timeout: float) -> None:
        """Stop stepping; candidates in flight stay in the engine."""
        self.call(lambda _: self._set_paused(True), timeout)

    def resume(self, timeout: float) -> None:
        """Go on stepping."""
        self.call(lambda _: self._set_paused(False), timeout)

    def close(self, timeout: float) -> None:
        """End the engine and the thread; candidates in flight are lost."""
        if self._failure is None:
            self.call(self._shut, timeout)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _put(self, task: Callable[[], T]) -> Future[T]:
        return self._executor.submit(self._guarded, task)

    def _guarded(self, task: Callable[[], T]) -> T:
        self._began = time.monotonic()
        with ExitStack() as watch:
            watch.callback(self._rest)
            watch.push(lambda kind, error, trace: self._end(error))
            self._refuse_if_ended()
            return task()

    def _rest(self) -> None:
        self._began = None

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _shut(self, engine: Engine) -> None:
        engine.close()
        self._end(ActorError("the engine loop was closed; start another one"))

    def _take(self, requests: Sequence[Request]) -> None:
        engine = self._engine.result()
        for request in requests:
            engine.submit(request)
        self._go_on()

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        self._go_on()

    def _go_on(self) -> None:
        if not self._stepping and not self._paused and self._engine.result().pending:
            self._stepping = True
            self._put(self._step)

    def _step(self) -> None:
        self._stepping = False
        if not self._paused and (finished := self._engine.result().step()):
            with self._changed:
                self._finished.extend(finished)
                self._changed.notify_all()
        self._go_on()

    def _refuse_if_ended(self) -> None:
        if self._failure is not None:
            raise _explained(self._failure)


def _explained(error: BaseException) -> RayalignError:
    if isinstance(error, RayalignError):
        return error
    explained = ActorError(
        f"the engine failed with {type(error).__name__}: {error}; replace it and submit its candidates again"
    )
    explained.__cause__ = error
    return explained
