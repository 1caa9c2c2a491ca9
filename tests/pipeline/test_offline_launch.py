"""Which settings of a job reach the loop of an offline stage, and what launches it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.config import ClusterConfig, LoadedJob, RoleConfig
from rayalign.coordinator import offline as ray_train
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.progress import LONGEST_INTERVAL
from rayalign.data.collate import EncodedRow
from rayalign.data.rows import RowFile
from rayalign.errors import ActorError, GuardError, LostError, RollbackError
from rayalign.pipeline import offline
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs

Study = Callable[..., LoadedJob]
LOST = LostError("train:reward rank 0 has not run for 20 s")
BROKEN = ActorError("train:reward rank 0 failed: ValueError: no such column")
ROWS = [EncodedRow((10 + g, 5, 6 + k), (False, True, True), g, float(k), str(g)) for g in range(4) for k in range(2)]


class Context(RunContext):
    """A run without a session."""

    def session(self) -> Any:
        return None


def fitted(
    loaded: LoadedJob, name: str, monkeypatch: pytest.MonkeyPatch, failures: tuple[Exception, ...] = ()
) -> list[tuple[OfflineSpec, RoleConfig, int]]:
    """What each launch of a stage was given, with the rows that it found; the first ones fail."""
    launches: list[tuple[OfflineSpec, RoleConfig, int]] = []
    following = list(failures)

    def launch(context: RunContext, spec: OfflineSpec, host: RoleConfig) -> None:
        launches.append((spec, host, len(RowFile(spec.rows_folder))))
        if following:
            raise following.pop(0)

    monkeypatch.setattr(offline, "_launch", launch)
    monkeypatch.setattr(offline, "_computing_seconds", lambda spec: 0.0)
    stage: Any = loaded.job.stages[name]
    with Context(loaded, Inputs(loaded)) as context:
        context.stage_folder(name).mkdir(parents=True)
        assert offline.fit(context, name, stage, ROWS) == len(ROWS)
    return launches


def test_the_loop_gets_the_seed_the_deadline_and_the_hosts_of_its_job(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = "stages.rm.roles={reward: {actors: 2, min_actors: 1, threads: 1}}"
    settings = ("seed=5", "cluster.call_timeout=111", "tracking.samples=9", roles)
    loaded = study(*settings)
    ((spec, host, rows),) = fitted(loaded, "rm", monkeypatch)
    run = Path(loaded.job.output).resolve() / "study"
    assert (spec.role, spec.seed, spec.timeout, spec.tracking.samples) == ("reward", 5, 111, 9)
    assert (spec.model, spec.folder) == (str(run / "stages/sft/model"), str(run / "stages/rm"))
    assert spec.events == str(run / "events.jsonl")
    assert spec.reference is None and spec.stage is loaded.job.stages["rm"]
    assert (host.actors, host.min_actors, rows) == (2, 1, 8)


@pytest.mark.parametrize(("reference", "stage"), [("", "sft"), ("reference: stage:base, ", "base")])
def test_a_reference_is_the_one_that_the_stage_names_else_its_start(
    study: Study, monkeypatch: pytest.MonkeyPatch, reference: str, stage: str
) -> None:
    dpo = f"stages.dpo={{kind: train, algorithm: {{name: dpo}}, {reference}model: stage:sft, examples: stage:verdicts}}"
    ((spec, _, _),) = fitted(study(dpo), "dpo", monkeypatch)
    assert spec.reference is not None and spec.reference.endswith(f"stages/{stage}/model")


def test_a_stage_is_launched_again_after_each_loss_and_once_after_another_failure(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(fitted(study("cluster.restarts=2"), "rm", monkeypatch, (LOST, BROKEN))) == 3
    with pytest.raises(LostError, match="has not run for 20 s; the same command goes on from the last checkpoint"):
        fitted(study("cluster.restarts=1", "name=lost"), "rm", monkeypatch, (LOST, LOST))
    with pytest.raises(ActorError, match="no such column"):
        fitted(study("cluster.restarts=9", "name=broken"), "rm", monkeypatch, (BROKEN, LOST, BROKEN))


def test_a_stage_that_a_guard_sent_back_is_launched_again_on_the_same_rows(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = RollbackError("loss is 3; the stage goes back to its last good checkpoint")
    launches = fitted(study("cluster.restarts=0"), "rm", monkeypatch, (back, back))
    assert [rows for _, _, rows in launches] == [8, 8, 8]
    with pytest.raises(GuardError, match="the run stops here"):
        fitted(study("name=other"), "rm", monkeypatch, (GuardError("the run stops here"),))


CLUSTER = ClusterConfig(start_timeout=11.0, heartbeat_timeout=22.0, call_timeout=33.0, restarts=2)


def launched(
    monkeypatch: pytest.MonkeyPatch, spec: OfflineSpec, failure: Exception | None = None, fewest: int | None = None
) -> dict[str, Any]:
    """What Ray Train and the watch over its ranks were given."""
    seen: dict[str, Any] = {"cancelled": [], "watches": [], "counts": []}

    def fit(trainer: Any, role: str, watch: Any) -> None:
        if failure is not None:
            raise failure

    def trainer(spec: OfflineSpec, ranks: Any, resources: Any, environment: Any) -> Any:
        seen.update(ranks=ranks, resources=resources, environment=environment)
        return SimpleNamespace(train_run_context=SimpleNamespace(run_id="run"))

    monkeypatch.setattr(ray_train, "_fit", fit)
    monkeypatch.setattr(ray_train, "_trainer", trainer)
    monkeypatch.setattr(ray_train, "Watch", lambda *places, **limits: seen["watches"].append((places, limits)))
    monkeypatch.setattr(ray_train, "cancel_train_request", seen["cancelled"].append)
    monkeypatch.setattr(ray_train, "recount_train_machines", lambda: seen["counts"].append("Ray Train"))
    resources, environment = {"CPU": 1.0}, {"A": "1"}
    with pytest.raises(type(failure)) if failure else nullcontext():
        ray_train.launch(spec, ranks=3, fewest=fewest, resources=resources, environment=environment, cluster=CLUSTER)
    return seen


@pytest.fixture
def spec(study: Study, monkeypatch: pytest.MonkeyPatch) -> OfflineSpec:
    ((spec, _, _),) = fitted(study("cluster.call_timeout=33"), "rm", monkeypatch)
    return spec


def test_ranks_are_watched_by_the_deadlines_of_the_job(spec: OfflineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = launched(monkeypatch, spec)
    assert (seen["ranks"], seen["resources"], seen["environment"]) == (3, {"CPU": 1.0}, {"A": "1"})
    ((places, limits),) = seen["watches"]
    assert places == (spec.ranks_folder, "reward", 3)
    assert limits == {"start_timeout": 11.0, "timeout": 33.0, "heartbeat": 22.0 + LONGEST_INTERVAL}
    assert launched(monkeypatch, spec, fewest=2)["ranks"] == (2, 3)


def test_a_launch_that_fails_leaves_no_request_for_its_resources(
    spec: OfflineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launched(monkeypatch, spec)["cancelled"] == []
    assert launched(monkeypatch, spec, LOST)["cancelled"] == ["run"]


def test_a_launch_of_fewer_ranks_counts_the_machines_first(spec: OfflineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch, spec)["counts"] == []
    assert launched(monkeypatch, spec, fewest=1)["counts"] == ["Ray Train"]
