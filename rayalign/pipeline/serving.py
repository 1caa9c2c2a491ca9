"""The annotator service and the served policy: on a Ray session of their own until a signal, or on a run's session."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from rayalign.annotator.capacity import refuse_what_does_not_fit
from rayalign.annotator.service import start
from rayalign.annotator.store.labels import LabelStore
from rayalign.annotator.web.connections import DRAIN_SECRET, drain
from rayalign.cluster.applications import DRAIN, stop_applications
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig, ServedPolicyConfig, ServiceConfig
from rayalign.waiting import reported

Say = Callable[[str], object]

_INGRESS = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(1 << 30),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rayalign.annotator.web.connections.server_middlewares",
}
"""Serve reads these when Ray starts: two raise the throughput of its proxy by half; then the longest reply [bytes],
which is 4 MiB by default, the time for the start of the proxy [s], and what bounds its connections"""
_CALM = {"RAY_enable_output_error_log_if_still_retry": "0"}
"""or Ray logs the orderly end of Serve's controller as an error"""


def serve_until_stopped(config: ServiceConfig, say: Say, report: Say) -> None:
    """Serve annotators on this machine, or on the cluster of RAY_ADDRESS, until SIGINT or SIGTERM; then finish and end.

    Args:
        say: takes what the service does.
        report: takes a line while something that the start needs does not come at once.
    """
    LabelStore(config.cache).close()  # raises here: out of a replica the error would have no reason
    variables = {"RAY_SERVE_ENABLE_HA_PROXY": "1"} if config.haproxy else {}
    session = _session()
    attached = bool(session.attached)
    if not attached:
        refuse_what_does_not_fit(config, {"CPU": os.cpu_count() or 1, "GPU": math.inf})  # Ray counts the GPUs

    def begin() -> tuple[str, str | None]:
        url = start(config, may_grow=attached, report=report)
        where = f"{len(config.annotators)} annotators at {url}  (page: {url}/  API: {url}/docs)"
        return where, None if config.haproxy else url

    _until_stopped(session, begin, say, report, variables)


def serve_policy_until_stopped(config: ServedPolicyConfig, say: Say, report: Say) -> None:
    """Serve a policy on this machine, or on the cluster of RAY_ADDRESS, until SIGINT or SIGTERM.

    Args:
        say: takes what the service does.
        report: takes a line while something that the start needs does not come at once.

    Raises:
        InputError: as `read_inputs`, before Ray starts, and `served_policy.start`.
    """
    from rayalign.cluster import served_policy
    from rayalign.serving.inputs import read_inputs

    inputs = read_inputs(config)

    def begin() -> tuple[str, str | None]:
        url = served_policy.start(config, inputs, report=report)
        return f"{config.model} with {len(config.adapters)} adapters at {url}/v1", url

    _until_stopped(_session(), begin, say, report, {})


def _session() -> Session:
    return Session(ClusterConfig(object_store=128 << 20), share_imports=False)


def _until_stopped(
    session: Session,
    begin: Callable[[], tuple[str, str | None]],
    say: Say,
    report: Say,
    variables: Mapping[str, str],
) -> None:
    """Start on the session, report where, wait for a signal; then finish and end.

    Args:
        begin: starts the application; what to say of it, and its URL where it can be drained.
        variables: of the environment, which Serve reads when Ray starts.
    """
    stopped = threading.Event()
    for name, value in {**_INGRESS, **_CALM, DRAIN_SECRET: secrets.token_urlsafe(32)}.items():
        os.environ.setdefault(name, value)
    os.environ.update(variables)
    with ExitStack() as running:
        with reported("Ray to start on this machine", report):
            running.enter_context(session)
        where, url = begin()
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which replaces the handler of SIGTERM
            signal.signal(number, lambda *_: stopped.set())
        say(where)
        while not stopped.wait(timeout=1.0):
            pass
        say("finishing what is in progress")
        if url is not None and not session.attached:
            drain(url, DRAIN)
        stop_applications()


def serve_for_run(config: ServiceConfig, folder: Path, address: str | None = None, token: str = "") -> str:
    """Serve on the run's session, beside its actors, with the cache in the run's folder; the URL.

    The front requests no cores: it answers between the stages' own work, and must not displace a role.

    Args:
        address: of the head node, where other machines of the cluster reach the service; None: this machine alone does.
        token: which the service then asks of everyone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = f"sqlite:///{folder / 'verdicts.db'}"
    run = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    host = address or config.host
    tokens = {config.access.token_variable: f"run:{token}"} if address else os.environ
    with socket.socket() as reserved:  # until Serve listens there: actors that start meanwhile take ports too
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((host, 0))
        own = {"host": host, "port": reserved.getsockname()[1], "cache": cache, "cpus": 0.0, "haproxy": False}
        service = config.model_copy(update=own)
        on_cluster = address is not None
        return start(
            service,
            f"annotator-{run}",
            replace=True,
            may_grow=on_cluster,
            environment=tokens,
            head_only=on_cluster,
        )
