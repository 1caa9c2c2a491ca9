from __future__ import annotations

from collections.abc import Callable

import pytest

from rayalign.config import LoadedJob
from rayalign.pipeline.plan import Plan, RolePlan, StagePlan, plan

Study = Callable[..., LoadedJob]
SHARED = (
    "cluster.gpus=null",
    "cluster.share_devices=true",
    "cluster.logical_devices={count: 2, bytes: 1000000000}",
    "rollout={gpus: 0.8, engines: 2}",
    "stages.rl.roles={policy: {actors: 2, gpus: 0.5}, critic: {actors: 2, gpus: 0.5}, reward: {gpus: 0.2}}",
)


def stage_of(made: Plan, name: str) -> StagePlan:
    return next(stage for stage in made.stages if stage.name == name)


def role_of(stage: StagePlan, name: str) -> RolePlan:
    return next(role for role in stage.roles if role.role == name)


def test_the_roles_of_an_online_stage(study: Study) -> None:
    stage = stage_of(plan(study().job), "rl")
    assert [(r.role, r.model, r.trained, r.actors) for r in stage.roles] == [
        ("policy", "stage:sft", True, 1),
        ("critic", "stage:rm", True, 1),
        ("reference", "stage:sft", False, 1),
        ("reward", "stage:rm", False, 1),
        ("generator", "stage:sft", False, 2),
    ]
    # four cores for six actors
    assert {round(r.cpus, 3) for r in stage.roles} == {0.667}
    assert {r.devices for r in stage.roles} == {("cpu",), ("cpu", "cpu")}


def test_a_frozen_model_in_parts_takes_a_share_of_its_memory_on_each_device(study: Study) -> None:
    whole, spread = "{actors: 2}", "{actors: 2, spread: true}"
    sizes = []
    for host in (whole, spread):
        stage = stage_of(plan(study(f"stages.rl.roles.reference={host}", f"stages.rl.roles.reward={host}").job), "rl")
        sizes.append([role_of(stage, role).memory for role in ("reference", "reward")])
    assert sizes[1] == [size // 2 for size in sizes[0]]


def test_named_cpus_leave_the_rest_to_share(study: Study) -> None:
    stage = stage_of(plan(study("rollout.cpus=1").job), "rl")
    assert (role_of(stage, "generator").cpus, role_of(stage, "policy").cpus) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("cores", "staleness", "expected"),
    [
        (2, 0, {"policy": 1, "critic": 1, "reference": 1, "reward": 1, "generator": 1}),
        (8, 0, {"policy": 4, "critic": 4, "reference": 2, "reward": 6, "generator": 1}),
        (8, 1, {"policy": 3, "critic": 3, "reference": 2, "reward": 6, "generator": 1}),
    ],
)
def test_threads_are_shared_by_what_runs_at_the_same_time(
    study: Study, cores: int, staleness: int, expected: dict[str, int]
) -> None:
    stage = stage_of(plan(study(f"cluster.cpus={cores}", f"stages.rl.max_staleness={staleness}").job), "rl")
    assert {role.role: role.threads for role in stage.roles} == expected
    (learner,) = stage_of(plan(study(f"cluster.cpus={cores}").job), "sft").roles
    assert learner.threads == cores


def test_other_stages_run_what_they_need(study: Study) -> None:
    made = plan(study().job)
    roles = {stage.name: [r.role for r in stage.roles] for stage in made.stages}
    assert roles["base"] == roles["sft"] == ["policy"]
    assert roles["rm"] == ["reward"]
    assert roles["draws"] == roles["test"] == ["generator"]
    assert roles["verdicts"] == []


@pytest.mark.parametrize("outputs", ["stored", "live"])
def test_an_offline_reference_runs_in_the_ranks_of_the_learner(study: Study, outputs: str) -> None:
    settings = f"algorithm: {{name: dpo}}, model: stage:sft, reference: stage:base, reference_outputs: {outputs}"
    hosts = "roles: {policy: {actors: 2, gpus: 1}}"
    job = study(f"stages.dpo={{kind: train, {settings}, examples: stage:verdicts, {hosts}}}", "cluster.gpus=2").job
    stage = stage_of(plan(job), "dpo")
    learner, reference = stage.roles
    assert (reference.role, reference.within, reference.model) == ("reference", "policy", "stage:base")
    assert (reference.devices, reference.cpus) == (learner.devices, 0.0) == (("gpu:0", "gpu:1"), 0.0)
    assert (reference.memory == 0) == (outputs == "stored")
    assert stage.batch.startswith("the reference's log-probs of all rows first") == (outputs == "stored")


def test_the_arithmetic_is_spelled_out(study: Study) -> None:
    stage = stage_of(plan(study("stages.rl.algorithm.epochs=3").job), "rl")
    assert stage.batch == (
        "32 prompts x 4 candidates = 128 samples; / minibatch 64 = 2 steps; x 3 passes = 6 steps an iteration; "
        "x 10 iterations = 60 steps"
    )


def test_models_are_followed_to_where_they_were_made(study: Study) -> None:
    made = plan(study().job)
    assert {r.parameters for s in made.stages for r in s.roles} == {984_192}
    job = study("stages.sft.model=Qwen/Qwen2.5-0.5B-Instruct", "stages.rl.model=someone/else").job
    # without the biases of its attention, 494,032,768 in all
    assert role_of(stage_of(plan(job), "draws"), "generator").parameters == 494_005_120
    assert role_of(stage_of(plan(job), "rl"), "policy").memory is None


def test_an_evaluation_reads_models_in_its_precision(study: Study) -> None:
    perplexity = "stages.test.perplexity=stage:base"
    fp32 = role_of(stage_of(plan(study(perplexity).job), "test"), "reference")
    bf16 = role_of(stage_of(plan(study(perplexity, "stages.test.precision=bf16").job), "test"), "reference")
    assert fp32.memory == 2 * (bf16.memory or 0) > 0


def test_devices_are_given_out_in_order(study: Study) -> None:
    overrides = ("cluster.gpus=4", "rollout.gpus=1", "stages.rl.roles={policy: {gpus: 0.5}, critic: {gpus: 0.5}}")
    stage = stage_of(plan(study(*overrides).job), "rl")
    assert role_of(stage, "policy").devices == role_of(stage, "critic").devices == ("gpu:0",)
    assert role_of(stage, "generator").devices == ("gpu:1", "gpu:2")
    both = sum(role_of(stage, r).memory or 0 for r in ("policy", "critic"))
    assert stage.device_memory["gpu:0"] == both


def test_an_engine_over_several_devices_claims_each(study: Study) -> None:
    overrides = ("cluster.gpus=4", "rollout={gpus: 2, tensor_parallel: 2, cache_bytes: 1000}")
    stage = stage_of(plan(study(*overrides).job), "draws")
    assert role_of(stage, "generator").devices == ("gpu:0,1", "gpu:2,3")
    assert stage.device_memory == {f"gpu:{i}": 984_192 * 2 + 1000 for i in range(4)}
    assert stage.memory == stage.processes


@pytest.mark.parametrize(("capacity", "count"), [(1 << 40, 0), (1 << 20, 1)])
def test_too_small_devices_are_warned_of(study: Study, capacity: int, count: int) -> None:
    job = study(f"cluster.gpu_memory={capacity}", "cluster.gpus=1", "stages.sft.roles.policy.gpus=1").job
    assert len([w for w in plan(job).warnings if w.startswith("sft needs about")]) == count


def test_bundles_of_shared_devices_are_the_devices_and_the_actors_cpus(study: Study) -> None:
    stage = stage_of(plan(study(*SHARED).job), "rl")
    assert stage.devices == 2
    assert sum(bundle.get("GPU", 0.0) for bundle in stage.bundles) == 2
    assert [bundle for bundle in stage.bundles if "CPU" in bundle and "GPU" in bundle] == []


def test_engines_and_learners_are_laid_over_the_same_devices(study: Study) -> None:
    made = plan(study(*SHARED).job)
    stage = stage_of(made, "rl")
    assert {role.role: role.devices for role in stage.roles} == {
        "policy": ("gpu:0", "gpu:1"),
        "critic": ("gpu:0", "gpu:1"),
        "reference": ("cpu",),
        "reward": ("gpu:0",),
        "generator": ("gpu:0", "gpu:1"),
    }
    assert role_of(stage_of(made, "draws"), "generator").devices == ("gpu:0", "gpu:1")


def test_the_parts_of_a_frozen_model_are_on_devices_of_their_own(study: Study) -> None:
    roles = "stages.rl.roles.reward={actors: 2, gpus: 0.2, spread: %s}"
    placed = []
    for spread in ("false", "true"):
        job = study(*SHARED, "rollout.gpus=0.6", roles % spread).job
        placed.append(role_of(stage_of(plan(job), "rl"), "reward").devices)
    assert placed == [("gpu:0", "gpu:0"), ("gpu:0", "gpu:1")]


def test_a_shared_device_must_hold_its_fullest_turn(study: Study) -> None:
    stage = stage_of(plan(study(*SHARED).job), "rl")
    memory = {role.role: role.memory or 0 for role in stage.roles}
    training = memory["policy"] + memory["critic"]
    assert stage.turn_memory("training")["gpu:0"] == training
    assert stage.turn_memory("rollout")["gpu:0"] == memory["generator"] + memory["reward"]
    assert stage.turn_memory("rollout")["gpu:1"] == memory["generator"]
    policy, engine = (role_of(stage, name).parts or {} for name in ("policy", "generator"))
    assert stage.turn_memory("publish")["gpu:1"] == policy["weights"] + engine["weights"]
    assert stage.device_memory["gpu:1"] == max(training, memory["generator"])
    # logical devices have no memory of their own
    held = 2 * (training + memory["generator"]) + memory["reward"] + memory["reference"]
    assert stage.memory == stage.processes + held


def test_stages_that_share_nothing_claim_no_logical_device(study: Study) -> None:
    job = study(*SHARED, "stages.sft.roles.policy.gpus=1").job
    stage = stage_of(plan(job), "sft")
    assert (stage.shared, role_of(stage, "policy").devices) == (False, ("cpu",))


def test_a_resident_role_counts_in_every_turn(study: Study) -> None:
    job = study(*SHARED, "stages.rl.roles.reward.resident=true").job
    stage = stage_of(plan(job), "rl")
    memory = {role.role: role.memory or 0 for role in stage.roles}
    assert stage.turn_memory("training")["gpu:0"] == memory["policy"] + memory["critic"] + memory["reward"]
