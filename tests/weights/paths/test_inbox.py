from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from rayalign.errors import DeadlineError, WeightError
from rayalign.weights.paths.inbox import END, Inbox

WAIT = 20.0


def test_messages_leave_by_their_number_and_are_acknowledged_when_used_up() -> None:
    inbox = Inbox(WAIT)
    with ThreadPoolExecutor(3) as threads:
        second, first = (threads.submit(inbox.accept, number, f"m{number}") for number in (1, 0))
        messages = inbox.messages()
        assert next(messages) == "m0"
        assert not first.done()
        assert next(messages) == "m1"
        assert first.result(WAIT)
        assert not second.done()
        last = threads.submit(inbox.accept, 2, END)
        assert list(messages) == []
        assert second.result(WAIT) and last.result(WAIT)


def test_an_engine_that_stops_reading_releases_the_sender() -> None:
    inbox = Inbox(WAIT)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(inbox.accept, 0, "m0")
        assert next(inbox.messages()) == "m0"
        inbox.close()
        assert waiting.result(WAIT) is False
    assert inbox.accept(1, "late") is False


def test_an_engine_that_waits_for_weights_ends_when_the_transfer_is_given_up() -> None:
    inbox = Inbox(WAIT)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(next, inbox.messages())
        inbox.close()
        with pytest.raises(WeightError, match="the trainer gave the transfer up"):
            waiting.result(WAIT)


def test_every_wait_ends() -> None:
    with pytest.raises(DeadlineError, match="no weights came within"):
        next(Inbox(0.01).messages())
    with pytest.raises(DeadlineError, match="did not use up weight message 0"):
        Inbox(0.01).accept(0, "m0")
