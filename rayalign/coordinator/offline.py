"""Offline training on Ray Train, which launches the loop of `offline_loop.py` and places its ranks.

    driver    main thread waits, watches the ranks, and hears Ctrl-C       fit thread: Ray Train's own wait
    ranks     train_offline, each in a worker of Ray Train                 heartbeat thread -> ranks/*.json

Ray Data is not in between: the rows are token ids in files of the stage's folder, which all machines share.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rayalign.cluster.causes import explain_with_log, precedence
from rayalign.cluster.ray_2_60 import (
    cancel_train_request,
    fails_at_the_start,
    recount_train_machines,
    remove_placement_groups,
    starts_too_slowly,
)
from rayalign.config import ClusterConfig
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.coordinator.progress import LONGEST_INTERVAL, Watch
from rayalign.errors import ActorError, LostError, RayalignError
from rayalign.types import Role

if TYPE_CHECKING:
    from ray.train import TrainingFailedError, WorkerGroupError

__all__ = ["OfflineSpec", "launch"]
LOOK = 0.2
"""seconds between two looks at the ranks"""
PATIENCE = 15.0
"""seconds in which Ray Train must have noticed that its controller is gone"""
TRACEBACK_LINES = 15
"""quoted of what ended a rank"""
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
    """Run the loop on Ray Train once and wait for it; its results are what it left in the stage's folder.

    The rows must lie in `spec.rows_folder`.

    Args:
        fewest: ranks with which it starts, or goes on, where there is no room for all; it grows again once there is.
            None: all of them.

    Raises:
        LostError: a process or a machine was lost.
        ActorError: the loop failed by itself.
        DeadlineError: a rank did not get on; with what it waits for.
    """
    watch = Watch(
        spec.ranks_folder,
        spec.role,
        ranks,
        start_timeout=cluster.start_timeout,
        timeout=spec.timeout,
        heartbeat=cluster.heartbeat_timeout + LONGEST_INTERVAL,
    )
    if fewest is not None:  # it asks how many machines there are, and must not count on one that has just gone
        recount_train_machines()
    trainer = _trainer(spec, ranks if fewest is None else (fewest, ranks), resources, environment)
    try:
        _fit(trainer, spec.role, watch)
    except ActorError:
        cancel_train_request(trainer.train_run_context.run_id)
        raise


def _trainer(
    spec: OfflineSpec,
    ranks: int | tuple[int, int],
    resources: Mapping[str, float],
    environment: Mapping[str, str],
) -> Any:
    """The loop as Ray Train runs it. It restarts nothing by itself; the stage does, within the job's limits."""
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
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            worker_runtime_env={"env_vars": dict(environment)},
        ),
    )


def _train(config: Mapping[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    train_offline(config["spec"], ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())


def _fit(trainer: Any, role: Role, watch: Watch) -> None:
    """Ray Train, without its own ways of failing.

    It runs in a thread, where it leaves Ctrl-C alone, so that the main thread can watch the ranks and be interrupted.
    """
    from ray.train import TrainingFailedError

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
    except TrainingFailedError as error:
        raise _named(role, watch, error) from error


def _named(role: Role, watch: Watch, error: TrainingFailedError) -> RayalignError:
    """Ray Train's failure in words of ours."""
    from ray.train import ControllerError, NCCLHangError, PreemptionError, WorkerGroupError

    if isinstance(error, PreemptionError):
        ranks = ", ".join(watch.name(rank) for rank in error.preemption_info.preempted_ranks)
        return LostError(f"{ranks or f'train:{role}'} died: the cluster takes its machine back")
    if isinstance(error, NCCLHangError):
        _, fact, *hints = [*str(error).splitlines(), ""]  # below Ray's heading
        return LostError("\n".join([f"train:{role} hangs in a collective of NCCL: {fact}", *hints]).strip())
    if isinstance(error, WorkerGroupError):
        return _first_cause(role, watch, error)
    assert isinstance(error, ControllerError)
    failure = error.controller_failure
    if starts_too_slowly(failure):
        return LostError(f"train:{role} did not start within cluster.start_timeout: a machine may have gone meanwhile")
    if fails_at_the_start(failure):
        return LostError(f"train:{role} failed while it started: {_last_line(failure)}")
    return ActorError(f"train:{role} could not be run: {failure}")


def _first_cause(role: Role, watch: Watch, error: WorkerGroupError) -> RayalignError:
    """What ended the ranks, by Ray Train's account, with the lines of the traceback that it quotes."""
    causes: list[RayalignError] = []
    for rank, failure in error.worker_failures.items():
        cause = getattr(failure, "health_check_failure", failure)
        causes.append(explain_with_log(watch.name(rank), cause, watch.place(rank), None))
    unnamed = ActorError(f"train:{role} failed, and Ray Train names no rank: {_last_line(error)}")
    first = min(causes, key=precedence, default=unnamed)
    if type(first) is not ActorError:
        return first
    quoted = "\n".join(str(error).splitlines()[-TRACEBACK_LINES:])
    return ActorError(f"{first}\n{quoted}")


def _last_line(error: BaseException) -> str:
    """The line of an error that says what happened, where Ray quotes a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


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
