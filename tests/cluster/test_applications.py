"""Calls of Serve's deployments and of Serve itself, none of which may wait for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest

from rayalign.cluster import applications
from rayalign.cluster.applications import called, start_application, stop_applications, streamed
from rayalign.errors import DeadlineError
from tests.ports import held_port


class Items:
    """A stream that gives two items and then nothing more."""

    def __init__(self) -> None:
        self.cancelled = False
        self._items = self._give()

    async def _give(self) -> AsyncGenerator[str, None]:
        yield "one"
        yield "two"
        await asyncio.Event().wait()

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> str:
        return await anext(self._items)

    def cancel(self) -> None:
        self.cancelled = True


class Method:
    """A method of a deployment that never replies, and streams what there is."""

    def __init__(self) -> None:
        self.items = Items()
        self._stream = False

    def options(self, *, stream: bool) -> Method:
        self._stream = stream
        return self

    def remote(self, *arguments: Any) -> Any:
        return self.items if self._stream else asyncio.get_running_loop().create_future()


def test_a_reply_that_does_not_come_is_late() -> None:
    with pytest.raises(DeadlineError, match="the hosted model gave nothing for 0.1 s"):
        asyncio.run(called(Method(), timeout=0.1))  # type: ignore[arg-type]


def test_a_stream_that_stops_is_late_and_cancelled_there() -> None:
    method = Method()
    got: list[str] = []

    async def read() -> None:
        async for item in streamed(method, timeout=0.2):  # type: ignore[arg-type]
            got.append(item)

    with pytest.raises(DeadlineError, match="gave nothing for 0.2 s"):
        asyncio.run(read())
    assert (got, method.items.cancelled) == (["one", "two"], True)


def test_a_stream_that_is_closed_is_cancelled_there() -> None:
    method = Method()

    async def read() -> None:
        stream = streamed(method, timeout=5.0)  # type: ignore[arg-type]
        assert await anext(stream) == "one"
        await stream.aclose()

    asyncio.run(read())
    assert method.items.cancelled


def test_a_serve_that_does_not_end_is_reported_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(applications, "END", 0.1)
    monkeypatch.setattr(applications.serve, "shutdown", lambda: time.sleep(3.0))
    begin = time.monotonic()
    with suppress(DeadlineError):
        stop_applications()
    assert time.monotonic() - begin < 2.0
    assert "Ray Serve did not end within 0 s; `serve shutdown` ends what it has left" in caplog.text


def test_a_controller_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "STATUS", 0.1)
    monkeypatch.setattr(applications.serve, "status", lambda: time.sleep(3.0))
    late = pytest.raises(DeadlineError, match="Ray Serve's controller has not answered for 0 s")
    with held_port() as port, late:
        start_application(object(), name="one", address=("127.0.0.1", port), timeout=1.0)  # type: ignore[arg-type]
    assert "has not answered" in applications._pending("one"), "the thread that reports a wait goes on"
