"""A dashboard of a Ray cluster, which answers as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import ray


class Dashboard(BaseHTTPRequestHandler):
    """Answers each path, or else the folder that it is in, with a status and a body."""

    answers: ClassVar[dict[str, tuple[int, Any]]]
    delay: ClassVar[float] = 0.0

    def do_GET(self) -> None:
        time.sleep(self.delay)
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        folder = self.path.rpartition("/")[0] + "/"
        status, body = self.answers.get(self.path) or self.answers.get(folder) or (404, "not found")
        text = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def answering_dashboard() -> Iterator[tuple[type[Dashboard], str]]:
    """The answers of a dashboard, at first its version alone, and its address."""
    handler = type("Answers", (Dashboard,), {"answers": {"/api/version": (200, {"ray_version": ray.__version__})}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
