"""What a run makes of the cluster that it joins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import LoadedJob
from rayalign.errors import InputError
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.hashing import stage_hashes
from rayalign.pipeline.inputs import Inputs
from rayalign.storage.summary import write_done

Study = Callable[..., LoadedJob]


class Cluster:
    """A session's view of a cluster that has so many GPUs; each time that it is asked to grow, one more and 16 CPUs."""

    def __init__(self, gpus: int) -> None:
        self.cpus, self.gpus = 16.0, gpus
        self.asked: list[list[dict[str, float]]] = []

    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": float(self.gpus)}

    def demand(self, bundles: list[dict[str, float]]) -> None:
        self.asked.append(bundles)
        self.gpus += bool(bundles)
        self.cpus += 16.0 * bool(bundles)


def compare(loaded: LoadedJob, cluster: Any) -> None:
    with RunContext(loaded, Inputs(loaded)) as context:
        context._compare(cluster)
        assert [] not in cluster.asked, "a later stage wants what was asked for too"


@pytest.fixture
def job(study: Study, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedJob]:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    return lambda *more: study("rollout.gpus=1", "stages.rl.roles.policy.gpus=1", *more)


def test_a_cluster_that_is_too_small_is_refused_at_once(job: Study) -> None:
    cluster = Cluster(2)
    with pytest.raises(InputError, match=r"stages\.rl\.roles: asks for 3 devices .* there are 2; .* or add machines"):
        compare(job(), cluster)
    assert cluster.asked == []


def test_a_cluster_that_grows_is_asked_for_the_largest_stage_and_let_go_at_the_end(job: Study) -> None:
    cluster = Cluster(2)
    compare(job("cluster.scale_timeout=30"), cluster)
    wanted, nothing = cluster.asked
    assert sum(bundle.get("GPU", 0.0) for bundle in wanted) == 3
    assert nothing == []


def test_the_largest_stage_is_one_that_runs_and_does_not_fit_yet(job: Study) -> None:
    cluster = Cluster(3)  # enough for the stage with the most GPUs
    stages = [
        f"stages.{name}.roles={{policy: {{cpus: {cpus}}}}}" for name, cpus in (("base", 40), ("sft", 24), ("rm", 20))
    ]
    loaded = job("cluster.scale_timeout=30", *stages)
    write_done(Path(loaded.job.output) / "study" / "stages" / "base", stage_hashes(loaded.job)["base"])
    compare(loaded, cluster)
    assert cluster.asked == [[{"CPU": 24.0}], []]


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
