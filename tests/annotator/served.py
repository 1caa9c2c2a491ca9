"""Services over HTTP in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import uvicorn
from fastapi import FastAPI

from rayalign.annotator.pool.build import build_pool
from rayalign.annotator.web.access import Access
from rayalign.annotator.web.app import create_app
from rayalign.config import ServiceConfig


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of an application that answers over a real socket, without Ray Serve."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 20.0
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20.0)


@contextmanager
def serving(config: ServiceConfig) -> Iterator[str]:
    """The service's routes."""
    app = create_app(build_pool(config), config, Access(config.access, {}), SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    with listening(app) as url:
        yield url
