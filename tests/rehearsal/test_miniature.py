"""The small job: what is folded, shrunk and substituted, and that it still passes `check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rayalign.config import Job, LoadedJob, load_job
from rayalign.pipeline.checks import check
from rayalign.pipeline.plan import plan
from rayalign.rehearsal.changes import Change, render
from rayalign.rehearsal.miniature import Miniature, Small

JOBS = Path(__file__).parents[2] / "jobs"
FULL = sorted(JOBS.glob("*.yaml"))
SHIPPED = sorted(JOBS.rglob("*.yaml"))


def folded(
    path: Path, tmp_path: Path, *overrides: str, full: bool = False, counts: Mapping[str, int] | None = None
) -> tuple[Job, list[Change]]:
    job = load_job(path, [f"output={tmp_path}", *overrides]).job
    builder = Miniature(job, Small(counts=counts or {}), fold=not full)
    return builder.build("miniature", str(tmp_path / "small")), builder.changes


@pytest.fixture
def hh(tmp_path: Path) -> tuple[Job, list[Change]]:
    return folded(JOBS / "hh_rlhf.yaml", tmp_path)


def test_counts_above_two_become_two(hh: tuple[Job, list[Change]]) -> None:
    job, _ = hh
    assert job.rollout.engines == 2
    assert job.stages["sft"].roles["policy"].actors == 2
    ppo = job.stages["ppo"]
    assert [source.count for source in ppo.candidate_sources] == [2]
    assert ppo.iterations == 4, "three, and one that is written ahead"


@pytest.mark.parametrize(("fewest", "folded_fewest"), [(4, 1), (8, 2)])
def test_ranks_that_may_be_fewer_may_be_fewer_than_two(tmp_path: Path, fewest: int, folded_fewest: int) -> None:
    override = f"stages.sft.roles.policy={{actors: 8, gpus: 1, min_actors: {fewest}}}"
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, override)
    policy = job.stages["sft"].roles["policy"]
    assert (policy.actors, policy.min_actors) == (2, folded_fewest)


def test_batches_stay_whole_steps_of_whole_units_on_every_rank(hh: tuple[Job, list[Change]]) -> None:
    ppo, rrhf = hh[0].stages["ppo"], hh[0].stages["rrhf"]
    assert (ppo.prompts * 2) % ppo.learner.minibatch == 0
    assert ppo.prompts * 2 // ppo.learner.minibatch == 2, "several steps stay several"
    assert rrhf.learner.minibatch % (2 * 2) == 0, "groups of two on two ranks"


def test_online_stages_use_every_chosen_row(tmp_path: Path) -> None:
    counts = {"ppo.data": 20, "rrhf.data": 20}
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, counts=counts)
    for name in ("ppo", "rrhf"):
        stage = job.stages[name]
        assert stage.prompts * stage.iterations >= 20, name
        assert stage.prompts * 2 % stage.learner.minibatch == 0, name


def test_an_online_stage_has_no_more_prompts_than_the_job(tmp_path: Path) -> None:
    overrides = ("stages.ppo.prompts=4", "stages.ppo.learner.minibatch=4", "stages.ppo.critic_learner.minibatch=4")
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, *overrides, counts={"ppo.data": 20})
    assert job.stages["ppo"].prompts == 4


@pytest.mark.parametrize(("stage", "rows_of_a_step"), [("sft", 4), ("rm", 1)])
def test_a_number_of_steps_is_enough_for_every_chosen_row(tmp_path: Path, stage: str, rows_of_a_step: int) -> None:
    override = f"stages.{stage}.steps=100"
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, override, counts={f"{stage}.data": 20})
    assert job.stages[stage].steps == 20 / rows_of_a_step
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, override)
    assert job.stages[stage].steps == 3


def test_what_a_rehearsal_is_about_stays(hh: tuple[Job, list[Change]]) -> None:
    job, _ = hh
    assert list(job.stages) == ["sft", "rm", "ppo", "rrhf", "final"]
    ppo = job.stages["ppo"]
    assert ppo.max_staleness == 1
    assert ppo.algorithm["name"] == "ppo"
    assert ppo.learner.zero_stage == 3
    assert ppo.learner.precision == "bf16"
    assert ppo.learner.ema == 0.992
    assert ppo.mix is not None
    assert ppo.roles["reward"].gpus == 0.5


def test_a_tail_is_rehearsed_with_the_prompts_of_a_small_iteration(tmp_path: Path) -> None:
    path = JOBS / "hh_rlhf.yaml"
    job, _ = folded(path, tmp_path, "stages.ppo.overlap={extra_prompts: 8, tail: later, in_flight: restart}")
    overlap = job.stages["ppo"].overlap
    assert (overlap.extra_prompts, overlap.tail, overlap.in_flight) == (2, "later", "restart")
    check(LoadedJob(job, {}, path))


def test_devices_become_logical_ones_of_the_folded_plan(hh: tuple[Job, list[Change]]) -> None:
    job, _ = hh
    devices = job.cluster.logical_devices
    assert devices is not None
    assert devices.count == 7, "2 engines, 2 policies, 2 critics, half a reference and half a reward"
    assert max(stage.devices for stage in plan(job).stages) == devices.count


def test_each_change_has_a_line(hh: tuple[Job, list[Change]]) -> None:
    lines = render(hh[1])
    assert "folded       rollout.engines: 3 -> 2" in lines
    assert "shrunk       stages.ppo.sampling.max_tokens: 256 -> 16" in lines
    assert any(line.startswith("substituted  stages.ppo.guards.0.action: stop -> warn") for line in lines)
    assert "substituted  rollout.weights: NCCL or CUDA IPC by the object store in shared memory" in lines
    kinds = [line.partition("  ")[0].strip() for line in lines]
    assert kinds == sorted(kinds, key=["kept", "folded", "shrunk", "substituted", "not covered"].index)


def test_full_keeps_engines_ranks_candidates_and_devices(tmp_path: Path) -> None:
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, full=True)
    assert job.rollout.engines == 3
    assert job.stages["sft"].roles["policy"].actors == 8
    assert job.stages["ppo"].candidate_sources[0].count == 4
    assert job.cluster.logical_devices is not None
    assert job.cluster.logical_devices.count == 8


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_full_folds_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(JOBS.parent)
    _, changes = folded(path, tmp_path, full=True)
    assert [str(change) for change in changes if change.kind == "folded"] == []


def test_full_keeps_devices_and_threads_of_each_actor_and_pairs_of_each_group(tmp_path: Path) -> None:
    devices = ("rollout.tensor_parallel=2", "rollout.gpus=2", "rollout.threads=4", "stages.rrhf.roles.reward.gpus=2")
    job, changes = folded(JOBS / "hh_rlhf.yaml", tmp_path, *devices, full=True)
    assert (job.rollout.gpus, job.rollout.threads, job.stages["rrhf"].roles["reward"].gpus) == (2, 4, 2)
    assert [change for change in changes if change.kind == "folded"] == []
    assert [c.key for c in changes if c.kind == "not covered"] == ["rollout.tensor_parallel"]
    job, _ = folded(JOBS / "quickstart.yaml", tmp_path, full=True)
    assert job.stages["labels"].pairs == 6


def test_extra_prompts_of_a_full_rehearsal_are_those_of_a_small_iteration(tmp_path: Path) -> None:
    override = "stages.ppo.overlap={extra_prompts: 128, tail: later, in_flight: restart}"
    job, changes = folded(JOBS / "hh_rlhf.yaml", tmp_path, override, full=True)
    ppo = job.stages["ppo"]
    assert ppo.overlap.extra_prompts == ppo.prompts
    (change,) = (change for change in changes if change.key.endswith("extra_prompts"))
    assert change.kind == "shrunk"


def test_tensor_parallel_ranks_are_named_as_not_covered(tmp_path: Path) -> None:
    job, changes = folded(JOBS / "hh_rlhf.yaml", tmp_path, "rollout.tensor_parallel=2", "rollout.gpus=2")
    assert (job.rollout.tensor_parallel, job.rollout.gpus) == (1, 1.0)
    assert [c.key for c in changes if c.kind == "not covered"] == ["rollout.tensor_parallel"]


def test_a_mixture_by_name_keeps_its_optimizer_steps(tmp_path: Path) -> None:
    job, _ = folded(JOBS / "rrhf.yaml", tmp_path, counts={"op_32.data": 20})
    online = job.stages["op_32"]
    assert online.candidates == "OP-2"
    assert online.prompts * online.candidates_per_prompt == 2 * online.learner.minibatch


def test_shared_devices_are_as_full_as_those_of_the_job(tmp_path: Path) -> None:
    overrides = (
        "cluster.share_devices=true",
        "stages.ppo.max_staleness=0",
        "rollout.engines=4",
        "stages.ppo.roles={policy: {actors: 4, gpus: 1}, critic: {actors: 4, gpus: 1}}",
    )
    job, _ = folded(JOBS / "hh_rlhf.yaml", tmp_path, *overrides)
    devices = job.cluster.logical_devices
    assert devices is not None
    assert job.cluster.share_devices
    planned = {stage.name: stage for stage in plan(job).stages}
    fullest = max(max(stage.device_memory.values()) for stage in planned.values() if stage.shared)
    assert fullest <= devices.bytes
    assert devices.bytes < 1 << 40


@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
@pytest.mark.parametrize("full", [False, True], ids=["folded", "full"])
def test_the_small_job_of_every_study_passes_check(
    path: Path, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.chdir(JOBS.parent)
    overrides = ["data.path=someone/rows"] if path.stem == "rlvr" else []
    job, _ = folded(path, tmp_path, *overrides, full=full)
    check(LoadedJob(job, {}, path))
