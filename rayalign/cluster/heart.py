"""The heartbeat of an actor, asked for while somebody waits for it.

listen    nothing was asked -> ask        answered -> keep the answer, ask again
          failed twice in a row ---------------------------------------> Ray's error, raised by whoever waits
judge     unanswered, and its process is stopped ------------------------> lost at once
          unanswered, and its process has not computed for the timeout --> lost: it hangs
          unanswered, and its process computes --------------------------> a long call holds Python's lock: wait
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import psutil

from rayalign.actors.hosted import Pulse

ASKS = 4
"""heartbeats within the timeout"""
IDLE_SHARE = 0.01
"""of a core: a process that hangs computes less, since its other threads hardly do anything"""
Machine = Literal["silent"]
"""the machine of a process did not answer"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What the system knows of a process."""

    stopped: bool
    cpu: float
    """seconds that it has computed so far"""


def condition_of(pid: int) -> Condition | None:
    """Of a process of this machine; None where there is none."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return Condition(process.status() == psutil.STATUS_STOPPED, times.user + times.system)
    except psutil.Error:
        return None


class Heart:
    """What is known of one actor's heartbeat."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self.every = timeout / ASKS
        """seconds between two heartbeats"""
        self.last: Pulse | None = None
        self.failure: BaseException | None = None
        """error of the last heartbeat; None: it was answered"""
        self.failures = 0
        """heartbeats that failed in a row; a single failure may belong to a call that ended long ago"""
        self._clock = clock
        self._asked: Future[Pulse] | None = None
        self._since = 0.0
        """when the heartbeat was asked for that is not answered yet"""
        self._idle: tuple[float, float] | None = None
        """when it was first seen to compute no more, and what it had computed until then"""

    def listen(self, ask: Callable[[], Future[Pulse]]) -> float:
        """Ask for the next heartbeat where the last one was answered; seconds since one is not."""
        if self._asked is not None and self._asked.done():
            self.failure = self._asked.exception()
            if self.failure is None:
                self.last, self.failures = self._asked.result(), 0
            else:
                self.failures += 1
            self._asked = None
        if self._asked is None:
            self._asked = ask()
            self._since = self._clock()
            self._idle = None
        return self._clock() - self._since

    def judge(self, condition: Condition | Machine | None) -> str | None:
        """Why an actor that does not answer is lost; None where it may still answer, or Ray will report its end."""
        silence = self._clock() - self._since
        overdue = silence >= self.timeout
        if condition == "silent":
            return f"its machine has not answered for {silence:.0f} s" if overdue else None
        if condition is None:
            return f"its process is gone, and Ray has not noticed for {silence:.0f} s" if overdue else None
        if condition.stopped:
            return f"its process is stopped (SIGSTOP), and has not answered for {silence:.0f} s"
        return self._judge_idle(condition.cpu)

    def _judge_idle(self, cpu: float) -> str | None:
        now = self._clock()
        if self._idle is None:
            self._idle = self._since, cpu
        since, before = self._idle
        if cpu - before > IDLE_SHARE * max(now - since, 1.0):
            self._idle = now, cpu
            return None
        if now - since < self.timeout:
            return None
        return f"its process hangs: no heartbeat and no work for {now - since:.0f} s"
