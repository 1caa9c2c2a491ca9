from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from rayalign.annotator.web import connections
from rayalign.annotator.web.connections import BoundedProtocol, Drain, drain, server_middlewares

SECRET = "a-secret-of-tests"


class Hasty(BoundedProtocol):
    """Waits a moment only."""

    head, whole, max_head = 0.4, 0.8, 8192


class Application:
    """Reads the body and answers; a request with a query, once `finish` is set."""

    def __init__(self) -> None:
        self.waiting = 0
        self.finish = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body"):
                break
        if scope["query_string"]:
            self.waiting += 1
            while not self.finish.is_set():
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})


@contextmanager
def served(protocol: type[BoundedProtocol], application: Application) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(Drain(application, SECRET), http=protocol, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def hasty() -> Iterator[tuple[str, int]]:
    application = Application()
    with served(Hasty, application) as address:
        threading.Timer(2.0, application.finish.set).start()
        yield address


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /second HTTP/1.1\r\nHost",
    ],
)
def test_half_open_connections_are_closed_in_time(hasty: tuple[str, int], sent: bytes) -> None:
    opened = [socket.create_connection(hasty, timeout=20) for _ in range(50)]
    start = time.monotonic()
    for connection in opened:
        connection.sendall(sent)
    for connection in opened:
        while connection.recv(4096):  # the first of two requests is answered
            pass
        connection.close()
    assert 0.3 < time.monotonic() - start < 15


def test_a_byte_now_and_then_buys_no_time(hasty: tuple[str, int]) -> None:
    with socket.create_connection(hasty, timeout=20) as connection:
        start = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011
            for byte in b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 10_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - start < 15


def test_headers_without_end_are_cut(hasty: tuple[str, int]) -> None:
    with socket.create_connection(hasty, timeout=20) as connection, pytest.raises(OSError):  # noqa: PT011
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(100_000):
            connection.sendall(b"X-Header-%d: %s\r\n" % (number, b"v" * 1000))


def test_whole_requests_take_the_time_that_they_need(hasty: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{hasty[0]}:{hasty[1]}", timeout=20) as client:
        for _ in range(2):  # on one connection
            assert client.post("/?later", content=b"x" * 200_000).text == "done"


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, for at most a minute."""
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_draining_finishes_what_is_in_progress_and_refuses_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application()
    with served(BoundedProtocol, application) as (host, port), ThreadPoolExecutor(30) as askers:
        url = f"http://{host}:{port}"
        asked = [askers.submit(httpx.get, f"{url}/?later", timeout=120) for _ in range(30)]
        until(lambda: application.waiting == 30)
        assert httpx.get(f"{url}/-/drain", timeout=60).text == "done", "without the secret it is a path like any other"
        monkeypatch.setenv(connections.DRAIN_SECRET, SECRET)
        ending = threading.Thread(target=drain, args=(url, 120.0))
        ending.start()
        until(lambda: httpx.get(url, timeout=60).status_code == 503)
        refused = httpx.get(url, timeout=60)
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        assert ending.is_alive() and not [reply for reply in asked if reply.done()]
        application.finish.set()
        ending.join(timeout=60)
        assert not ending.is_alive()
        assert [reply.result(timeout=60).text for reply in asked] == ["done"] * 30


def test_draining_ends_with_its_deadline(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(connections.DRAIN_SECRET, SECRET)
    application = Application()
    with served(BoundedProtocol, application) as (host, port), socket.create_connection((host, port)) as hanging:
        hanging.sendall(b"GET /?later HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: application.waiting == 1)
        drain(f"http://{host}:{port}", 0.5)
        assert "may have requests in progress" in caplog.text
        application.finish.set()


def test_serves_proxy_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connections.DRAIN_SECRET, SECRET)
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    (layer,) = server_middlewares()
    assert (layer.cls, layer.kwargs) == (Drain, {"secret": SECRET})
    config = uvicorn.Config(Application())
    config.load()
    assert config.http_protocol_class is BoundedProtocol


def test_without_a_secret_nobody_drains() -> None:
    async def ask() -> int:
        transport = httpx.ASGITransport(Drain(Application(), ""))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.get("/-/drain", headers={"x-rayalign-drain": ""})
            return (await client.get("/")).status_code

    assert asyncio.run(ask()) == 200
