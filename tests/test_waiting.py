from __future__ import annotations

import logging
import time

import pytest

from rayalign.waiting import FIRST, reported


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
