from __future__ import annotations

import logging
import signal
import time

import pytest

from rayalign.errors import DeadlineError
from rayalign.waiting import FIRST, finished_within, interrupted_after, reported


def test_a_long_wait_is_reported_again_and_again_until_it_ends() -> None:
    lines: list[str] = []
    state = "the lock"
    with reported(lambda: state, lines.append, first=0.05, again=0.1):
        time.sleep(0.1)
        state = "the reply"
        time.sleep(0.3)
    ended = len(lines)
    assert lines[0] == "waiting for the lock (0 s)" and lines[-1].startswith("waiting for the reply")
    time.sleep(0.25)
    assert len(lines) == ended >= 2


def test_a_short_wait_says_nothing() -> None:
    lines: list[str] = []
    with reported("a moment", lines.append, first=0.5):
        pass
    time.sleep(0.6)
    assert lines == []


def test_a_failure_ends_it_too_and_two_seconds_are_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="broken"), reported("what fails", first=0.01):
        time.sleep(0.05)
        raise ValueError("broken")
    assert caplog.records[0].levelno == logging.WARNING and "waiting for what fails" in caplog.text
    assert FIRST == 2.0


def test_what_a_function_returns_or_raises_comes_through() -> None:
    assert finished_within(lambda: 5, 10.0, "late") == 5
    with pytest.raises(ZeroDivisionError):
        finished_within(lambda: 1 // 0, 10.0, "late")

    def late_itself() -> None:
        raise TimeoutError("a proxy was not ready")

    with pytest.raises(TimeoutError, match="a proxy was not ready"):
        finished_within(late_itself, 10.0, "late")


def test_a_function_that_never_ends_is_left_alone_at_its_deadline() -> None:
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match="^Ray did not end within 0 s$"):
        finished_within(lambda: time.sleep(5.0), 0.1, "Ray did not end within 0 s")
    assert time.monotonic() - begin < 2.0


def test_the_main_thread_is_interrupted_at_its_deadline_and_its_own_alarm_stays() -> None:
    rung: list[str] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append("alarm"))
    earlier = signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(DeadlineError, match="Ray did not start"), interrupted_after(0.2, "Ray did not start"):
            time.sleep(5.0)
        with interrupted_after(60.0, "Ray did not start"):
            pass
        assert rung == []
        time.sleep(1.5)
        assert rung == ["alarm"]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *earlier)


def test_another_thread_is_not_interrupted() -> None:
    def wait() -> str:
        with interrupted_after(0.05, "late"):
            time.sleep(0.3)
        return "done"

    assert finished_within(wait, 5.0, "late") == "done"
