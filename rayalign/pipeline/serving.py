"""The services: on a Ray session of their own until a signal, or the annotator on the session of a run."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from rayalign.annotator.labels import LabelStore
from rayalign.annotator.service import start
from rayalign.cluster.applications import stop_applications
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig, ServedPolicyConfig, ServiceConfig

_INGRESS = {"RAY_SERVE_PROXY_USE_GRPC": "1", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Serve reads these when Ray starts: they raise the throughput of its proxy by half"""
_CALM = {"RAY_enable_output_error_log_if_still_retry": "0"}
"""or Ray logs the orderly end of Serve's controller as an error"""


def serve_until_stopped(config: ServiceConfig, say: Callable[[str], object]) -> None:
    """Serve annotators on this machine, or on the cluster of RAY_ADDRESS, until SIGINT or SIGTERM."""
    LabelStore(config.cache).close()  # raises here: out of a replica the error would have no reason
    variables = {"RAY_SERVE_ENABLE_HA_PROXY": "1"} if config.haproxy else {}

    def begin() -> str:
        url = start(config)
        return f"{len(config.annotators)} annotators at {url}  (page: {url}/  API: {url}/docs)"

    _until_stopped(begin, say, variables)


def serve_policy_until_stopped(config: ServedPolicyConfig, say: Callable[[str], object]) -> None:
    """Serve a policy on this machine, or on the cluster of RAY_ADDRESS, until SIGINT or SIGTERM.

    Raises:
        InputError: as `read_inputs`, before Ray starts, and `served_policy.start`.
    """
    from rayalign.cluster import served_policy
    from rayalign.serving.inputs import read_inputs

    inputs = read_inputs(config)

    def begin() -> str:
        url = served_policy.start(config, inputs)
        return f"{config.model} with {len(config.adapters)} adapters at {url}/v1"

    _until_stopped(begin, say, {})


def _until_stopped(begin: Callable[[], str], say: Callable[[str], object], variables: Mapping[str, str]) -> None:
    """Start on a session of its own, report where, wait for a signal; then finish and end."""
    stopped = threading.Event()
    for name, value in {**_INGRESS, **_CALM}.items():
        os.environ.setdefault(name, value)
    os.environ.update(variables)
    with Session(ClusterConfig(object_store=128 << 20), share_imports=False):
        where = begin()
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which replaces the handler of SIGTERM
            signal.signal(number, lambda *_: stopped.set())
        say(where)
        while not stopped.wait(timeout=1.0):
            pass
        say("finishing what is in progress")
        stop_applications()


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
