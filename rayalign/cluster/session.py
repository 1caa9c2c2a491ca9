"""The Ray session of a run: a local one, or the cluster that the job was submitted to."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError

from rayalign.cluster import forks
from rayalign.cluster.growth import Pending, pending_machines
from rayalign.cluster.placement import Claim, process_environment
from rayalign.cluster.ray_2_60 import keep_sigterm_handler, loopback_node, reload_authentication, start_node
from rayalign.config import ClusterConfig
from rayalign.errors import DeadlineError, InputError
from rayalign.waiting import interrupted_after

LOCAL = {
    "RAY_prestart_worker_first_driver": "0",  # idle processes, one for each core, that no actor of ours can use
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine a proxy needs more than 5 s to start
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # this machine is not preempted
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # notices the end of a stage at once
    "RAY_task_events_report_interval_ms": "0",  # a record of each call, which only a dashboard would show
    "RAY_worker_register_timeout_seconds": "300",  # the first workers wait for the fork server's imports
}
"""settings of a local session, where the environment has no other"""


_WRONG_TOKEN = re.compile("AuthenticationError|InvalidAuthToken|Unauthenticated")
"""where Ray has the error of a wrong token as text alone"""
REACH = 10.0
"""seconds to connect to a cluster's address"""
END_SECONDS = 120.0
"""until Ray must have ended"""
_LOGS = "/tmp/ray/session_latest/logs"
logger = logging.getLogger(__name__)


class Session:
    """A Ray session, from entering to leaving; a cluster that it attaches to keeps running."""

    def __init__(self, config: ClusterConfig, *, share_imports: bool = True) -> None:
        """A local session whose workers hold models shares their imports, where that is possible."""
        self._config = config
        self._share_imports = share_imports and forks.possible()
        self._open = ExitStack()
        self.attached = config.address or os.environ.get("RAY_ADDRESS")
        """address of a cluster that outlives this session, with its detached actors; None: a local session"""

    def __enter__(self) -> Session:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(self._config.start_timeout))
        limit = self._config.start_timeout
        with keep_sigterm_handler(), ExitStack() as undo:
            if self.attached:
                undo.callback(_end)
                late = f"the Ray cluster at {self.attached} did not answer within {limit:.0f} s; see that it is up"
                with interrupted_after(limit, late):
                    self._attach(self.attached)
            else:
                undo.enter_context(own_token())
                command = self._worker_command(undo)
                undo.callback(_end)
                late = f"Ray did not start within {limit:.0f} s; see {_LOGS}, or raise cluster.start_timeout"
                with interrupted_after(limit, late):
                    self._start(command)
            self._open = undo.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def demand(self, bundles: list[dict[str, float]]) -> None:
        """Request that an autoscaling cluster grows until these fit at once; with none it may shrink again."""
        request_resources(bundles=bundles)

    def resources(self) -> dict[str, float]:
        """The resources of all machines now, by Ray's names."""
        return dict(ray.cluster_resources())

    def address(self) -> str | None:
        """The address of this machine for others of the cluster; None where there are no others."""
        return ray.util.get_node_ip_address() if self.attached else None

    def machines(self) -> list[dict[str, float]]:
        """The resources of each machine now."""
        return machines()

    def pending(self) -> Pending:
        """The machines that an autoscaler is adding."""
        return pending_machines()

    def _attach(self, address: str) -> None:
        _refuse_unreachable(address)
        try:
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": dict(self._config.environment)},
            )
        except (ConnectionError, AuthenticationError) as error:
            raise InputError(_refusal(address, error)) from error
        except RuntimeError as error:
            if not str(error).startswith("Version mismatch"):
                raise
            raise InputError(_version_sentence(address, str(error))) from error

    def _worker_command(self, undo: ExitStack) -> dict[str, Any]:
        """Ray's runtime environment that starts workers as forks; empty where they are started one by one."""
        if not self._share_imports:
            return {}
        server = forks.ForkServer(process_environment(Claim(cpus=0.0, gpus=0.0, threads=1)))
        undo.callback(server.stop)
        return {"py_executable": server.command, "config": {"eager_install": False}}

    def _start(self, runtime_env: dict[str, Any]) -> None:
        config = self._config
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
        settings: dict[str, Any] = {
            "address": "local",  # never a session that runs on this machine already
            "num_cpus": int(config.cpus or os.cpu_count() or 1),
            "num_gpus": config.devices,
            "object_store_memory": config.object_store,
            "include_dashboard": False,
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "runtime_env": {**runtime_env, "env_vars": dict(config.environment)},
        }
        with loopback_node():
            start_node(lambda: ray.init(**settings))


def _end() -> None:
    """Leave the session, and end a local one."""
    try:
        with interrupted_after(END_SECONDS, f"Ray did not end within {END_SECONDS:.0f} s"):
            ray.shutdown()
    except DeadlineError as error:
        logger.warning("%s; `ray stop --force` ends what it has left", error)


def _refuse_unreachable(address: str) -> None:
    """Ray itself tries for minutes to reach an address where nobody listens.

    Raises:
        InputError: nobody listens there.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():  # another machine's client, or `auto`
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except OSError as error:
        raise InputError(f"{_no_cluster(address)} ({error})") from error


def _no_cluster(address: str) -> str:
    return f"no Ray cluster answers at {address}; start one with `ray start --head`, or correct RAY_ADDRESS"


def _refusal(address: str, error: BaseException) -> str:
    """Why a cluster did not let this process in; that of a wrong token may stand behind or in another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AuthenticationError) or _WRONG_TOKEN.search(str(cause)):
            return (
                f"the cluster at {address} refuses this process's token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to "
                "what `ray get-auth-token` prints on its head node"
            )
        cause = cause.__cause__ or cause.__context__
    return _no_cluster(address)


def _version_sentence(address: str, mismatch: str) -> str:
    """Ray's text of several lines, which names the versions of the cluster first and those of this process last."""
    versions = re.findall(r"(?:Ray|Python): (\S+)", mismatch)
    ray_there, python_there, ray_here, python_here = versions
    return (
        f"the cluster at {address} has Ray {ray_there} with Python {python_there}, and this process has Ray {ray_here} "
        f"with Python {python_here}; start the driver on the head node, or set both up from the same constraints.txt"
    )


def machines() -> list[dict[str, float]]:
    """The resources of each machine of the session now, by Ray's names."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def processes_here() -> list[int]:
    """Process ids of this driver's actors on the machine that calls; a cluster is their parent."""
    context = ray.get_runtime_context()
    job = ray.JobID.from_hex(context.get_job_id())
    actors = ray._private.state.actors(job_id=job, actor_state_name="ALIVE").values()
    return [actor["Pid"] for actor in actors if actor["Address"]["NodeID"] == context.get_node_id()]


def dead_actors() -> set[str]:
    """The ids of this driver's actors that have ended."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return set(ray._private.state.actors(job_id=job, actor_state_name="DEAD"))


@contextmanager
def own_token() -> Iterator[None]:
    """Within it, a session that starts here serves only processes with a token made for it.

    The token stands in the environment of this process and of those that it starts, which only their user can read.
    """
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_urlsafe(32)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    reload_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        reload_authentication()
