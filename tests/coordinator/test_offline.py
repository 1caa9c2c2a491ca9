from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ray.train import WorkerGroupError

from rayalign.cluster.placement import Claim, process_environment
from rayalign.config import LearnerConfig, TrackingConfig, TrainStage
from rayalign.coordinator.offline import OfflineSpec, _fit, launch
from rayalign.coordinator.progress import Watch
from rayalign.data.collate import EncodedRow
from rayalign.data.rows import write_rows
from rayalign.errors import ActorError, DeadlineError
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


def test_a_failure_names_the_role_and_the_cause_first(watch: Watch) -> None:
    snippet = "Traceback (most recent call last):\n  File x\nValueError: no such column"
    with pytest.raises(ActorError) as caught:
        _fit(Trainer(WorkerGroupError(snippet, {})), "reward", watch)
    first, *rest = str(caught.value).splitlines()
    assert first == "train:reward failed, and again after a restart: ValueError: no such column"
    assert "  File x" in rest


def test_another_failure_of_ray_train_stays_what_it_is(watch: Watch) -> None:
    with pytest.raises(ZeroDivisionError):
        _fit(Trainer(ZeroDivisionError()), "reward", watch)
    _fit(Trainer(None), "reward", watch)


@pytest.fixture
def endless(model: str, tmp_path: Path) -> OfflineSpec:
    """A loop that never comes to its end."""
    learner = LearnerConfig(minibatch=8, micro_tokens=256)
    stage = TrainStage(kind="train", algorithm={"name": "reward"}, model=model, learner=learner, steps=10**6)
    events = tmp_path / "events.jsonl"
    return replace(SPEC, stage=stage, model=model, folder=str(tmp_path), events=str(events), timeout=45.0)


def start(spec: OfflineSpec) -> None:
    environment = process_environment(Claim(1.0, 0.0, 1))
    write_rows(spec.rows_folder, ROWS)
    launch(spec, ranks=1, resources={"CPU": 1.0}, environment=environment, start_timeout=280.0)


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
def test_a_rank_that_is_stopped_ends_the_stage_within_its_deadline(ray_session: None, endless: OfflineSpec) -> None:
    with (
        once_it_trains(endless, signal.SIGSTOP, driver=False) as pids,
        pytest.raises(DeadlineError, match=r"train:reward rank 0 \(pid \d+ on .*\) has not run for \d+ s, in \w+"),
    ):
        start(endless)
    assert has_ended(pids[0])


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_ctrl_c_ends_the_ranks_too(ray_session: None, endless: OfflineSpec) -> None:
    patient = replace(endless, timeout=300.0)
    with once_it_trains(patient, signal.SIGINT, driver=True) as pids, pytest.raises(KeyboardInterrupt):
        start(patient)
    assert has_ended(pids[0])
