"""What Ray 2.60 has no setting for; remove each function once Ray has one."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray._common import tls_utils
from ray._common.network_utils import is_localhost
from ray._private import ray_constants, state, utils
from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader, Config
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from rayalign.errors import DeadlineError

logger = logging.getLogger(__name__)
STARTS = 3
"""how often a node is started before the run gives up"""
_TIMED_OUT = "timed out during startup"
_GRACE = 10.0
"""seconds that the processes of a failed start have to end"""
_COUNTING = 10.0
"""seconds in which Ray Train must have counted the cluster's machines"""


def start_node(start: Callable[[], object]) -> None:
    """Call `start`, which calls `ray.init`, again where the node was not up within 30 s, as on a machine under load.

    Ray has no setting for these 30 s. It raises a bare `Exception` then, and leaves the processes that it has started.

    Raises:
        DeadlineError: the last start was too slow too.
    """
    for attempt in range(1, STARTS + 1):
        before = set(psutil.Process().children())
        try:
            start()
            return
        except Exception as error:
            if _TIMED_OUT not in str(error):
                raise
            _end([process for process in psutil.Process().children() if process not in before and _is_of_ray(process)])
            if attempt == STARTS:
                raise DeadlineError(
                    f"Ray's node did not start within Ray's 30 s in {STARTS} starts; the machine is too busy: stop "
                    "other work on it, then give the same command again"
                ) from error
            logger.warning("Ray's node did not start within Ray's 30 s; start %d of %d follows", attempt + 1, STARTS)


def _is_of_ray(process: psutil.Process) -> bool:
    """Whether its command stands in Ray's folder, as those of a node do; False where it has ended meanwhile."""
    try:
        return any("/ray/" in part for part in process.cmdline())
    except psutil.NoSuchProcess:  # a zombie too
        return False


def _end(processes: list[psutil.Process]) -> None:
    """Terminate processes; kill those that do not end."""
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_GRACE)
    for process in alive:
        process.kill()


@contextmanager
def loopback_node() -> Iterator[None]:
    """Within it, `ray.init` starts a node that listens on loopback alone, as it does by default on macOS.

    `ray.init` replaces a loopback address that it receives with the machine's own.
    """
    default = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = default


@contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Within it, `ray.init` leaves the handler of SIGTERM that this process has; Ray's end the process without a word.

    A process without a handler of its own gets Ray's, which ends Ray's processes too. Beneath Python, Ray's library in
    C++ installs a handler too, which aborts the process 3 s later: a busy machine ends a run more slowly than that.
    """
    replace = utils.set_sigterm_handler
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = replace
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # in the place of the one beneath Python


def reload_authentication() -> None:
    """Make Ray read the environment's authentication mode and token again; it keeps what it has read once.

    The mode comes first: in token mode, one of Ray's threads may look for a token that is no longer there, and abort.
    """
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def remove_placement_groups(creators: Collection[str]) -> None:
    """Remove the placement groups of actors that were killed; Ray keeps them, with their devices, until the job ends.

    Args:
        creators: ids of the actors.
    """
    for serialized in state.state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(serialized)
        if group.creator_actor_id.hex() in creators:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def cancel_train_request(run_id: str) -> None:
    """Cancel the request of a Ray Train run whose controller was killed; it would hold its resources for 180 s.

    Only an elastic run asks for what is left beside such requests.
    """
    from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
        TrainAutoscalingCoordinatorClient,
    )

    TrainAutoscalingCoordinatorClient(f"train-{run_id}").cancel_resource_request()


def recount_train_machines() -> None:
    """Make Ray Train count the cluster's machines now; it does so every 20 s, and starts ranks on those that have gone.

    Only an elastic run asks how many there are.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    counted, _ = ray.wait([get_or_create_autoscaling_coordinator()._tick.remote()], timeout=_COUNTING)
    if not counted:
        logger.warning("Ray Train did not count the machines within %.0f s; one of them may be gone", _COUNTING)


def starts_too_slowly(failure: BaseException) -> bool:
    """Whether the ranks of Ray Train did not start in time; it names that error only within."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(failure, WorkerGroupStartupTimeoutError)


def fails_at_the_start(failure: BaseException) -> bool:
    """Whether a process of Ray Train ended while it started; it names that error only within."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    return isinstance(failure, WorkerGroupStartupFailedError)


def bind_replica_to_node() -> None:
    """Bind the server of this Serve replica to loopback where its node is bound to loopback.

    Serve binds to every interface the server on which replicas unpickle the requests of other deployments. A
    deployment's constructor calls this, since the server starts after it.
    """
    from ray.serve._private import replica

    address = ray.util.get_node_ip_address()
    if not is_localhost(address):
        return

    def add_port(server: Any, listen: str) -> int:
        port = listen.rpartition(":")[2]
        return tls_utils.add_port_to_grpc_server(server, f"{address}:{port}")

    replica.add_port_to_grpc_server = add_port
