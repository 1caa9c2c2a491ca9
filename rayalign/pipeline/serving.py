"""The annotator service: on a Ray session of its own until a signal, or on the session of a run."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from rayalign.annotator.labels import LabelStore
from rayalign.annotator.service import start, stop
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig, ServiceConfig

_INGRESS = {"RAY_SERVE_PROXY_USE_GRPC": "1", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Serve reads these when Ray starts: they raise the throughput of its proxy by half"""
_CALM = {"RAY_enable_output_error_log_if_still_retry": "0"}
"""or Ray logs the orderly end of Serve's controller as an error"""


def serve_until_stopped(config: ServiceConfig, say: Callable[[str], object]) -> None:
    """Serve on this machine, or on the cluster of RAY_ADDRESS, until SIGINT or SIGTERM; then finish and end."""
    LabelStore(config.cache).close()  # raises here: out of a replica the error would have no reason
    stopped = threading.Event()
    for name, value in {**_INGRESS, **_CALM}.items():
        os.environ.setdefault(name, value)
    if config.haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    with Session(ClusterConfig(object_store=128 << 20), share_imports=False):
        url = start(config)
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which replaces the handler of SIGTERM
            signal.signal(number, lambda *_: stopped.set())
        say(f"{len(config.annotators)} annotators at {url}  (page: {url}/  API: {url}/docs)")
        while not stopped.wait(timeout=1.0):
            pass
        say("finishing what is in progress")
        stop()


def serve_for_run(config: ServiceConfig, folder: Path) -> str:
    """Serve on the run's session, beside its actors, with the cache in the run's folder; the URL.

    The front requests no cores: it answers between the stages' own work, and must not displace a role.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = f"sqlite:///{folder / 'verdicts.db'}"
    run = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    with socket.socket() as reserved:  # until Serve listens there: actors that start meanwhile take ports too
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((config.host, 0))
        own = {"port": reserved.getsockname()[1], "cache": cache, "cpus": 0.0, "haproxy": False}
        return start(config.model_copy(update=own), f"annotator-{run}", replace=True)
