"""What the stages of a run share."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import LoadedJob
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.waiting import reported

Study = Callable[..., LoadedJob]


def test_the_roles_that_a_stage_trained_have_folders_of_their_own(study: Study) -> None:
    loaded = study()
    with RunContext(loaded, Inputs(loaded)) as context:
        folders = {name: context.model(name) for name in ("stage:rl", "stage:rl/policy", "stage:rl/critic")}
    stage = Path(loaded.job.output).resolve() / "study" / "stages" / "rl"
    assert folders == {
        "stage:rl": str(stage / "model"),
        "stage:rl/policy": str(stage / "model"),
        "stage:rl/critic": str(stage / "critic"),
    }


def test_what_starts_at_the_same_time_counts_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 4.0, 6.0, 10.0])
    monkeypatch.setattr("rayalign.pipeline.context.time.perf_counter", lambda: next(now))
    loaded = study()
    with RunContext(loaded, Inputs(loaded)) as context:
        with context.starting("the engines"):  # from 0 to 10
            with context.starting("the roles"):  # from 1 to 4
                pass
            with context.starting("the annotator service"):  # from 4 to 6
                pass
        assert context.fixed_seconds == 10.0


def test_a_long_start_says_what_it_waits_for(
    study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rayalign.pipeline.context.reported", partial(reported, first=0.02))
    caplog.set_level("INFO")
    loaded = study()
    with RunContext(loaded, Inputs(loaded)) as context, context.starting("2 engines"):
        time.sleep(0.3)
    assert "waiting for 2 engines to start (0 s)" in caplog.messages


def test_actors_get_the_absolute_path_of_a_relative_folder(study: Study, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    loaded = study("stages.draws.model=models/mine")
    with RunContext(loaded, Inputs(loaded)) as context:
        assert context.model("models/mine") == str(tmp_path / "models" / "mine")
        assert context.model("nobody/nothing") == "nobody/nothing"
        assert Path(context.model("stage:sft")).is_absolute()


class Pool:
    """A pool that only ends."""

    def __init__(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def shrink(self) -> None:
        pass


@pytest.mark.parametrize(("stage", "running"), [("sft", False), ("verdicts", True), ("rl", True), ("test", True)])
def test_engines_that_share_devices_end_before_a_stage_that_needs_devices_alone(
    study: Study, stage: str, running: bool
) -> None:
    devices = "cluster={cpus: 4, share_devices: true, logical_devices: {count: 1, bytes: 1000000000}}"
    loaded = study(devices, "rollout.gpus=1")
    pool: Any = Pool()
    with RunContext(loaded, Inputs(loaded)) as context:
        context._pool = pool
        context.begin(stage)
        assert pool.running == running
