"""Offline training on Ray Train, which launches the loop of `offline_loop.py`, places its ranks and restarts them.

    driver    main thread waits, watches the ranks, and hears Ctrl-C       fit thread: Ray Train's own wait
    ranks     train_offline, each in a worker of Ray Train                 heartbeat thread -> ranks/*.json

Ray Data is not in between: the rows are token ids in files of the stage's folder, which all machines share.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import ray

from rayalign.cluster.ray_2_60 import cancel_train_request, remove_placement_groups
from rayalign.config import ClusterConfig
from rayalign.coordinator.failures import explain_restart
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.coordinator.progress import LONGEST_INTERVAL, Watch
from rayalign.errors import ActorError, LostError, RayalignError
from rayalign.types import Role

__all__ = ["OfflineSpec", "launch"]
logger = logging.getLogger(__name__)
LOOK = 0.2
"""seconds between two looks at the ranks"""
PATIENCE = 15.0
"""seconds in which Ray Train must have noticed that its controller is gone"""
CONTROLLER = "TrainController"
OWN = (CONTROLLER, "RayTrainWorker")
"""classes of Ray Train's actors that end with a loop"""


def launch(
    spec: OfflineSpec,
    *,
    ranks: int,
    fewest: int | None = None,
    resources: Mapping[str, float],
    environment: Mapping[str, str],
    cluster: ClusterConfig,
) -> None:
    """Run the loop on Ray Train and wait for it; its results are what it left in the stage's folder.

    The rows must lie in `spec.rows_folder`. Ray Train itself restarts ranks that died, from the last checkpoint. Where
    one is silent its launch starts again.

    Args:
        fewest: ranks with which it starts, or goes on, where there is no room for all; it grows again once there is.
            None: all of them.

    Raises:
        ActorError: the loop failed, and again after its restarts.
        DeadlineError: a rank did not get on; with what it waits for.
    """
    for left in reversed(range(cluster.restarts + 1)):
        watch = Watch(
            spec.ranks_folder,
            spec.role,
            ranks,
            start_timeout=cluster.start_timeout,
            timeout=spec.timeout,
            heartbeat=cluster.heartbeat_timeout + LONGEST_INTERVAL,
        )
        try:
            count = ranks if fewest is None else (fewest, ranks)
            trainer = _trainer(spec, count, resources, environment, cluster.restarts)
            _fit(trainer, spec.role, watch)
            return
        except LostError as error:
            if not left:
                raise
            cancel_train_request(trainer.train_run_context.run_id)
            logger.warning("%s; it starts again from its last checkpoint", error)


def _trainer(
    spec: OfflineSpec,
    ranks: int | tuple[int, int],
    resources: Mapping[str, float],
    environment: Mapping[str, str],
    restarts: int,
) -> Any:
    """The loop as Ray Train runs it."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _train,
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(
            num_workers=ranks, use_gpu=bool(resources.get("GPU")), resources_per_worker=dict(resources)
        ),
        run_config=RunConfig(
            name="launch",
            storage_path=str(Path(spec.folder).resolve()),
            failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=0),
            worker_runtime_env={"env_vars": dict(environment)},
        ),
    )


def _train(config: Mapping[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    train_offline(config["spec"])


def _fit(trainer: Any, role: Role, watch: Watch) -> None:
    """Ray Train, without its own ways of failing.

    It runs in a thread, where it leaves Ctrl-C alone, so that the main thread can watch the ranks and be interrupted.
    """
    from ray.train import ControllerError, WorkerGroupError

    fit = _Fit(trainer)
    fit.start()
    try:
        with ExitStack() as undo:
            # Whatever ends the wait, Ctrl-C too, in whichever thread it is raised: nothing of the loop may go on.
            undo.callback(fit.join, PATIENCE)
            undo.callback(_end)
            while fit.is_alive():
                fit.join(LOOK)
                watch.check()
            fit.answer()
            undo.pop_all()
    except WorkerGroupError as error:
        causes = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
        for cause in causes:
            if isinstance(cause, RayalignError):
                raise cause from error
        raise explain_restart(role, str(error)) from error
    except ControllerError as error:
        raise ActorError(f"train:{role} could not be run: {str(error).strip()}") from error


class _Fit(threading.Thread):
    """Ray Train's wait, and how it ended."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="fit", daemon=True)
        self._trainer = trainer
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Wait for Ray Train."""
        try:
            self._trainer.fit()
        except BaseException as failure:  # goes on in `answer`
            self._failure = failure

    def answer(self) -> None:
        """Raise what the wait ended with, if it failed."""
        if self._failure is not None:
            raise self._failure


def _end() -> None:
    """End Ray Train's controller and the ranks of this machine; those of others end with their controller.

    Their placement group ends too, or the next launch would wait for its devices. A stopped process hears nothing but
    SIGKILL, and Ray offers no handle to these actors.
    """
    if not ray.is_initialized():
        return
    context = ray.get_runtime_context()
    job = ray.JobID.from_hex(context.get_job_id())
    for actor in ray._private.state.actors(job_id=job, actor_state_name="ALIVE").values():
        local = actor["Address"]["NodeID"] == context.get_node_id()
        if local and actor["ActorClassName"] in OWN:
            with suppress(ProcessLookupError):
                os.kill(actor["Pid"], signal.SIGKILL)
    actors = ray._private.state.actors(job_id=job)
    remove_placement_groups([key for key, actor in actors.items() if actor["ActorClassName"] == CONTROLLER])
