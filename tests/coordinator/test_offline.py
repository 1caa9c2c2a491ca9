from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch
from ray.exceptions import NodeDiedError
from ray.train import ControllerError, NCCLHangError, PreemptionError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.preemption import PreemptionInfo

from rayalign.cluster.placement import Claim, process_environment
from rayalign.cluster.workers import Workers
from rayalign.config import ClusterConfig, LearnerConfig, RoleConfig, TrackingConfig, TrainStage
from rayalign.coordinator import offline
from rayalign.coordinator.offline import OfflineSpec, _fit, _trainer, launch
from rayalign.coordinator.offline_actors import train_on_workers
from rayalign.coordinator.progress import Watch
from rayalign.data.collate import EncodedRow
from rayalign.data.rows import write_rows
from rayalign.errors import ActorError, InputError, LostError
from rayalign.models.engine_state import stored_tensors
from rayalign.storage.events import EventLog
from rayalign.storage.records import read_jsonl

SPEC = OfflineSpec(
    stage=TrainStage(kind="train", algorithm={"name": "reward"}, model="m", holdout=0.25),
    role="reward",
    model="m",
    tracking=TrackingConfig(),
    seed=0,
    folder="",
    events="",
    timeout=60.0,
)
LAUNCHERS = ("ray_train", "actors")
CLUSTER = ClusterConfig(start_timeout=280.0, heartbeat_timeout=20.0, restarts=1)
ROWS = [EncodedRow((10 + g, 5, 6 + k), (False, True, True), g, float(k), str(g)) for g in range(8) for k in range(2)]


class Trainer:
    """Ray Train as far as it fails."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def fit(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "ranks", "reward", 1, start_timeout=60.0, timeout=60.0)


def test_a_failure_names_the_rank_and_the_cause_first(watch: Watch) -> None:
    snippet = "Traceback (most recent call last):\n  File x\nValueError: no such column"
    with pytest.raises(ActorError) as caught:
        _fit(Trainer(WorkerGroupError(snippet, {0: ValueError("no such column")})), "reward", watch)
    first, *rest = str(caught.value).splitlines()
    assert first == "train:reward rank 0 failed: ValueError: no such column"
    assert "  File x" in rest


def test_a_failure_without_a_rank_is_told_in_ray_trains_words(watch: Watch) -> None:
    with pytest.raises(ActorError, match="^train:reward failed, and Ray Train names no rank: out of order\n"):
        _fit(Trainer(WorkerGroupError("out of order", {})), "reward", watch)


def test_a_collective_that_hangs_and_a_machine_that_is_taken_back_are_losses(watch: Watch) -> None:
    with pytest.raises(LostError, match="^train:reward hangs in a collective of NCCL: no progress\nTo debug"):
        _fit(Trainer(NCCLHangError("no progress\nTo debug:\n- Read", {})), "reward", watch)
    taken = PreemptionError(PreemptionInfo(None, {"3f2a9c01": [0]}))
    with pytest.raises(LostError, match="^train:reward rank 0 died: the cluster takes its machine back$"):
        _fit(Trainer(taken), "reward", watch)


def test_ray_train_restarts_nothing_by_itself() -> None:
    """Ray Train's own rule decides, for each way in which ranks may fail."""
    policy = DefaultFailurePolicy(_trainer(SPEC, 2, {"CPU": 1.0}, {}).run_config.failure_config)
    failures = (
        WorkerGroupError("it died", {0: NodeDiedError("its node has died")}),
        PreemptionError(PreemptionInfo(None, {})),
        ControllerError(WorkerGroupStartupTimeoutError(2)),
        ControllerError(WorkerGroupStartupFailedError("no memory")),
    )
    for failure in failures:
        assert policy.make_decision(failure) == FailureDecision.RAISE


def test_a_lost_rank_is_the_cause_and_not_the_rank_that_missed_it(watch: Watch) -> None:
    gone = WorkerHealthCheckFailedError("A worker health check failed.", NodeDiedError("its node has died"))
    failures = {0: RuntimeError("Connection closed by peer"), 1: gone}
    with pytest.raises(LostError, match="^train:reward rank 1 died: its machine is gone$"):
        _fit(Trainer(WorkerGroupError("many lines", failures)), "reward", watch)


def test_an_error_of_ours_stays_what_it_is(watch: Watch) -> None:
    with pytest.raises(InputError, match="^no rows$"):
        _fit(Trainer(WorkerGroupError("many lines", {0: InputError("no rows")})), "reward", watch)


def test_ranks_that_do_not_start_are_a_loss_since_their_machine_may_have_gone(watch: Watch) -> None:
    with pytest.raises(LostError, match="^train:reward did not start within cluster.start_timeout: a machine may"):
        _fit(Trainer(ControllerError(WorkerGroupStartupTimeoutError(2))), "reward", watch)
    quoted = "One of the worker actors failed to initialize due to error:\nTraceback\nRayActorError: its process died\n"
    with pytest.raises(LostError, match="^train:reward failed while it started: RayActorError: its process died$"):
        _fit(Trainer(ControllerError(WorkerGroupStartupFailedError(quoted))), "reward", watch)
    with pytest.raises(ActorError, match="^train:reward could not be run: no storage$"):
        _fit(Trainer(ControllerError(OSError("no storage"))), "reward", watch)


def test_another_failure_of_ray_train_stays_what_it_is(watch: Watch) -> None:
    with pytest.raises(ZeroDivisionError):
        _fit(Trainer(ZeroDivisionError()), "reward", watch)
    _fit(Trainer(None), "reward", watch)


def test_a_controller_that_never_ends_is_left_at_the_deadline_of_its_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "PATIENCE", 0.1)
    monkeypatch.setattr(offline, "_end", lambda: None)
    stuck = SimpleNamespace(fit=lambda: time.sleep(20.0))
    watch = Watch(tmp_path / "ranks", "reward", 1, start_timeout=0.5, timeout=0.5)
    with pytest.raises(LostError, match="train:reward rank 0 did not start within"):
        _fit(stuck, "reward", watch)


@pytest.fixture
def endless(model: str, tmp_path: Path) -> OfflineSpec:
    """A loop that never comes to its end."""
    learner = LearnerConfig(minibatch=8, micro_tokens=256)
    stage = TrainStage(kind="train", algorithm={"name": "reward"}, model=model, learner=learner, steps=10**6)
    events = tmp_path / "events.jsonl"
    return replace(SPEC, stage=stage, model=model, folder=str(tmp_path), events=str(events), timeout=15.0)


def start(
    spec: OfflineSpec,
    launcher: str = "ray_train",
    workers: Workers | None = None,
    cluster: ClusterConfig = CLUSTER,
) -> None:
    write_rows(spec.rows_folder, ROWS)
    if launcher == "ray_train":
        start_on_ray_train(spec, cluster)
        return
    with closing(EventLog(Path(spec.events))) as events:
        asyncio.run(train_on_workers(spec, RoleConfig(threads=1), workers or Workers(cluster), cluster, events))


def start_on_ray_train(
    spec: OfflineSpec, cluster: ClusterConfig, *, ranks: int = 1, fewest: int | None = None, cores: float = 1.0
) -> None:
    environment = process_environment(Claim(cores, 0.0, 1))
    launch(spec, ranks=ranks, fewest=fewest, resources={"CPU": cores}, environment=environment, cluster=cluster)


@pytest.fixture(scope="module")
def workers(ray_session: None) -> Iterator[Workers]:
    """One group of processes for all tests, so that each follows a stage of another."""
    group = Workers(CLUSTER)
    yield group
    group.stop()


@contextmanager
def once_it_trains(spec: OfflineSpec, number: signal.Signals, *, driver: bool) -> Iterator[list[int]]:
    """Sends a signal to the rank, or to this process, once the rank has written a checkpoint; the rank's pid."""
    pids: list[int] = []

    def strike() -> None:
        while not (Path(spec.folder) / "checkpoints" / "last").exists():
            time.sleep(0.1)
        pids.extend(row["actor_pid"] for row in read_jsonl(Path(spec.events)) if row["event"] == "actor_started")
        os.kill(os.getpid() if driver else pids[0], number)

    # A shell in the background ignores Ctrl-C, and so does everything that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    yield pids
    thread.join(timeout=30.0)
    signal.signal(signal.SIGINT, before)


def has_ended(pid: int) -> bool:
    """Whether a process ends within a minute; the parent of one that was killed may take a moment to collect it."""
    if not psutil.pid_exists(pid):
        return True
    _, alive = psutil.wait_procs([psutil.Process(pid)], timeout=60)
    return not any(process.status() != psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_is_stopped_ends_the_stage_long_before_its_deadline(
    workers: Workers, endless: OfflineSpec, launcher: str
) -> None:
    patient = replace(endless, timeout=1800.0)
    stopped = r"^train:reward.* \(pid \d+.*\) (has not run for \d+ s, in \w+|is lost on .*stopped)"
    with (
        once_it_trains(endless, signal.SIGSTOP, driver=False) as pids,
        pytest.raises(LostError, match=stopped),
    ):
        start(patient, launcher, workers)
    assert has_ended(pids[0])


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ctrl_c_ends_the_ranks_too(workers: Workers, endless: OfflineSpec, launcher: str) -> None:
    patient = replace(endless, timeout=300.0)
    with once_it_trains(patient, signal.SIGINT, driver=True) as pids, pytest.raises(KeyboardInterrupt):
        start(patient, launcher, workers)
    assert has_ended(pids[0])


def finite(endless: OfflineSpec, folder: Path, epochs: int = 4) -> OfflineSpec:
    """The same loop in a folder of its own, with an end."""
    settings = endless.stage.model_copy(update={"steps": None, "epochs": epochs, "keep": 4})
    return replace(endless, stage=settings, folder=str(folder), events=str(folder / "events.jsonl"), timeout=300.0)


def state(folder: Path) -> dict[str, bytes]:
    """What a stage left: its model, and the weights, the optimizer and the random state of its last checkpoint."""
    saved = folder / "checkpoints/last/state"
    left = {key: tensor.numpy().tobytes() for key, tensor in stored_tensors(saved).items()}
    content = torch.load(saved / "rank-0.pt", weights_only=True)
    left["rng"] = content["rng"].numpy().tobytes()
    left["steps"] = repr((content["adam_steps"], content["schedule_steps"])).encode()
    return left | {"model": (folder / "model" / "model.safetensors").read_bytes()}


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_both_launchers_make_the_same_weights_and_go_on_from_each_others_checkpoints(
    workers: Workers, endless: OfflineSpec, tmp_path: Path
) -> None:
    for launcher in LAUNCHERS:
        start(finite(endless, tmp_path / launcher), launcher, workers)
    whole = state(tmp_path / "actors")
    assert state(tmp_path / "ray_train") == whole
    for first, second in (LAUNCHERS, LAUNCHERS[::-1]):
        interrupt(tmp_path / first, epoch=2)
        start(finite(endless, tmp_path / first), second, workers)
        assert state(tmp_path / first) == whole


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_ray_train_goes_on_after_a_rank_was_killed(workers: Workers, endless: OfflineSpec, tmp_path: Path) -> None:
    specs = {name: finite(endless, tmp_path / name, epochs=60) for name in ("whole", "killed")}
    start(specs["whole"], "actors", workers)
    killed = r"^train:reward rank 0 \(pid \d+ on .* died: its process has died"
    with once_it_trains(specs["killed"], signal.SIGKILL, driver=False) as pids:
        with pytest.raises(LostError, match=killed):
            start(specs["killed"], "ray_train")
        start(specs["killed"], "ray_train")
    events = list(read_jsonl(Path(specs["killed"].events)))
    ranks = [row["actor_pid"] for row in events if row["event"] == "actor_started"]
    assert len(set(ranks)) == 2 and ranks[0] == pids[0]
    assert state(tmp_path / "killed") == state(tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_ray_train_starts_with_as_many_ranks_as_there_is_room_for(ray_session: None, endless: OfflineSpec) -> None:
    """A rank wants more than half of the cores that other tests leave; else the loop would wait for the second one."""
    spec = finite(endless, Path(endless.folder))
    write_rows(spec.rows_folder, ROWS)
    cores = ray.available_resources()["CPU"] / 2 + 0.25
    start_on_ray_train(spec, CLUSTER, ranks=2, fewest=1, cores=cores)
    ranks = [row["rank"] for row in read_jsonl(Path(spec.events)) if row["event"] == "actor_started"]
    assert ranks == [0]
    assert (Path(spec.folder) / "model" / "model.safetensors").is_file()


def interrupt(folder: Path, epoch: int) -> None:
    """Leave of a finished stage what there was when it had saved the checkpoint of an epoch."""
    for path in (folder / "checkpoints").glob("iteration-*"):
        if int(path.name.removeprefix("iteration-")) > epoch:
            shutil.rmtree(path)
    shutil.rmtree(folder / "model")


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_rank_that_is_lost_has_another_one_in_the_next_launch(workers: Workers, endless: OfflineSpec) -> None:
    patient = replace(endless, timeout=300.0)
    pids: list[int] = []

    def strike() -> None:
        """Stop the rank and, once another one has gone on from its checkpoint, kill that one."""
        checkpoints = Path(patient.folder) / "checkpoints"
        for number in (signal.SIGSTOP, signal.SIGKILL):
            before = checkpoints.resolve() / "last"
            seen = before.readlink() if before.exists() else None
            while not before.exists() or before.readlink() == seen:
                time.sleep(0.1)
            events = read_jsonl(Path(patient.events), growing=True)
            pids.append([row["actor_pid"] for row in events if row["event"] == "actor_started"][-1])
            os.kill(pids[-1], number)
            psutil.wait_procs([psutil.Process(pids[-1])] if psutil.pid_exists(pids[-1]) else [], timeout=60)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    for how in ("its process is stopped", "its process has died"):
        with pytest.raises(LostError, match=rf"^train:reward \(pid \d+\) .*{how}"):
            start(patient, "actors", workers)
    thread.join(timeout=60.0)
    first, second = pids
    assert first != second
