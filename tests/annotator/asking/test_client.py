from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayalign.annotator.asking.client import AnnotatorClient
from rayalign.errors import DeadlineError
from tests.ports import held_port

ANNOTATORS = json.dumps({"annotators": []}).encode()


class Handler(BaseHTTPRequestHandler):
    """A service without annotators."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANNOTATORS)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving(port: int) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def test_an_address_where_nobody_listens_is_given_up_in_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with held_port() as port:
        client = AnnotatorClient(f"http://127.0.0.1:{port}", deadline=600.0)
        start = time.monotonic()
        with pytest.raises(DeadlineError, match=r"no answer within 5 s \(no connection: .*refused\).*`rayalign serve`"):
            client.annotators()
        assert time.monotonic() - start < 8
    first = caplog.records[0]
    assert f"waiting for http://127.0.0.1:{port}/v1/annotators: no connection" in first.getMessage()


def test_an_address_that_never_answers_a_connection_is_given_up_too() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:  # these fill the queue, so that the next one is not accepted
            connection.setblocking(False)
            connection.connect_ex(address)
        client = AnnotatorClient(f"http://{address[0]}:{address[1]}", deadline=600.0)
        start = time.monotonic()
        with pytest.raises(DeadlineError, match="no answer within 5 s"):
            client.annotators()
        assert time.monotonic() - start < 12
        for connection in waiting:
            connection.close()


def test_a_service_that_has_answered_may_go_away_for_longer() -> None:
    with held_port() as port:
        client = AnnotatorClient(f"http://127.0.0.1:{port}", deadline=60.0)
        with serving(port):
            assert client.annotators() == []
        found: list[object] = []
        asking = threading.Thread(target=lambda: found.append(client.annotators()))
        asking.start()
        time.sleep(6.0)
        with serving(port):
            asking.join(timeout=30)
        assert found == [[]]
