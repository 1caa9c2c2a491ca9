"""What an online stage proves its weights by, and what it leaves of its roles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.actors.learner import LearnerSpec
from rayalign.config import LoadedJob, LoraConfig
from rayalign.coordinator.rollbacks import Rollbacks
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.online import _channel, _specs
from rayalign.pipeline.saved_roles import save_roles

Study = Callable[..., LoadedJob]


class Call:
    """A method of an actor that lives in this process."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class Group:
    """A trained role of one rank, whose model is its name."""

    def __init__(self, role: str) -> None:
        def save(folder: str, tokenizer: str) -> None:
            Path(folder).mkdir(parents=True)
            (Path(folder) / "weights").write_text(role)
            (Path(folder) / "tokenizer").write_text(tokenizer)

        self.save = Call(save)
        self.probe = Call(lambda tokens: [[-1.0] * (len(row) - 1) for row in tokens])

    async def all(self, call: Callable[[Any], Any]) -> list[Any]:
        return [call(self)]


@pytest.mark.parametrize(
    ("algorithm", "folders"), [("ppo", {"model": "policy", "critic": "critic"}), ("rrhf", {"model": "policy"})]
)
def test_every_trained_role_is_saved_in_the_place_of_what_a_kill_left(
    study: Study, algorithm: str, folders: dict[str, str]
) -> None:
    loaded = study("stages.rl.algorithm=null", f"stages.rl.algorithm={{name: {algorithm}}}")
    groups = {role: Group(role) for role in ("policy", "critic", "reward")}
    renderer: Any = SimpleNamespace(tokenizer=build_tokenizer())
    stage: Any = loaded.job.stages["rl"]
    with RunContext(loaded, Inputs(loaded)) as context:
        parts: Any = SimpleNamespace(roles=groups, turns=context.turns)
        target = context.stage_folder("rl")
        (target / "model").mkdir(parents=True)
        (target / "model" / "old").write_text("old")
        asyncio.run(save_roles(context, "rl", stage, parts, renderer))
        sft = context.model("stage:sft")
    assert {path.name: (path / "weights").read_text() for path in target.iterdir()} == folders
    assert {(path / "tokenizer").read_text() for path in target.iterdir()} == {sft}
    assert (target / "model" / "probe.json").is_file()
    assert not (target / "model" / "old").exists()


CRITIC = (
    "stages.rl.critic_learner={learning_rate: 3e-3, minibatch: 32, offload: optimizer, zero_stage: 2, "
    "gradient_checkpointing: true, lora: {rank: 4, alpha: 8}}"
)


def test_a_critic_learns_by_a_section_of_its_own(study: Study) -> None:
    loaded = study(CRITIC, "stages.rl.learner.learning_rate=1e-4")
    stage: Any = loaded.job.stages["rl"]
    kind: Any = kind_of(stage)
    with RunContext(loaded, Inputs(loaded)) as context:
        specs = _specs(context, "rl", stage, kind.algorithm, None, Rollbacks(context.stage_folder("rl"), ()))
    policy, critic = specs["policy"], specs["critic"]
    assert isinstance(policy, LearnerSpec) and isinstance(critic, LearnerSpec)
    config = critic.config
    assert (config.learning_rate, config.offload, config.zero_stage) == (3e-3, "optimizer", 2)
    assert config.gradient_checkpointing and config.lora == LoraConfig(rank=4, alpha=8)
    assert (policy.config.learning_rate, policy.config.offload, policy.config.lora) == (1e-4, "none", None)
    assert critic.total_steps == 2 * policy.total_steps  # minibatches of half the size


def specs_of(study: Study, *overrides: str) -> Any:
    """What the roles of the online stage are made from."""
    loaded = study(*overrides)
    stage: Any = loaded.job.stages["rl"]
    kind: Any = kind_of(stage)
    with RunContext(loaded, Inputs(loaded)) as context:
        return _specs(context, "rl", stage, kind.algorithm, None, Rollbacks(context.stage_folder("rl"), ()))


def test_an_exact_divergence_is_measured_against_the_named_reference(study: Study) -> None:
    quark = "stages.rl.algorithm={name: quark, kl_coefficient: 0.1}"
    specs = specs_of(study, quark, "stages.rl.reference=someone/other")
    assert specs["policy"].reference == "someone/other" and "reference" not in specs
    assert specs["policy"].model != "someone/other"
    assert specs_of(study, quark)["policy"].reference == specs["policy"].model
    assert specs_of(study, quark.replace("0.1", "0"))["policy"].reference is None


def test_roles_read_log_probs_at_the_temperature_of_the_draws(study: Study) -> None:
    specs = specs_of(study, "stages.rl.sampling.temperature=0.7", "stages.rl.reference=someone/other", "seed=5")
    policy, reference = specs["policy"], specs["reference"]
    assert (policy.temperature, reference.temperature) == (0.7, 0.7)
    assert (policy.seed, reference.model, policy.reference) == (5, "someone/other", None)
    rrhf = ("stages.rl.algorithm={name: rrhf}", "stages.rl.sampling.temperature=0.7")
    assert specs_of(study, *rrhf)["policy"].temperature == 1.0  # it has no ratio to what was drawn


@pytest.mark.parametrize(("source", "timeout"), [("rules:numeric", 100.0), ("http://127.0.0.1:1/score/judge", 20.0)])
def test_an_annotator_must_answer_early_enough_to_be_asked_again(study: Study, source: str, timeout: float) -> None:
    loaded = study(f"stages.rl.reward={source}", "stages.rl.redo=3", "cluster.call_timeout=100")
    stage: Any = loaded.job.stages["rl"]
    kind: Any = kind_of(stage)
    with RunContext(loaded, Inputs(loaded)) as context:
        specs = _specs(context, "rl", stage, kind.algorithm, None, Rollbacks(context.stage_folder("rl"), ()))
    reward: Any = specs["reward"]
    assert reward.timeout == timeout


def test_a_stage_that_trains_a_reward_model_takes_its_section(study: Study) -> None:
    loaded = study("stages.rm.learner={offload: all, zero_stage: 3, gradient_checkpointing: true, lora: {rank: 2}}")
    [need] = kind_of(loaded.job.stages["rm"]).roles(loaded.job)
    assert need.role == "reward" and need.trained
    learner = need.learner
    assert (learner.offload, learner.zero_stage, learner.gradient_checkpointing) == ("all", 3, True)
    assert learner.lora == LoraConfig(rank=2)


def test_weights_are_proven_by_the_ends_of_the_stages_own_prompts(study: Study) -> None:
    loaded = study("stages.rl.data.limit=20")
    inputs = Inputs(loaded)
    first = inputs.fitting("rl", "stage:sft")[0]
    prompts: list[str] = []

    def prompt_ids(prompt: Any) -> tuple[int, ...]:
        prompts.append(prompt.id)
        return tuple(range(100, 140))

    renderer: Any = SimpleNamespace(tokenizer=build_tokenizer(), prompt_ids=prompt_ids)
    group: Any = SimpleNamespace(places={})
    pool: Any = SimpleNamespace(group=group, engine="local", adapter=None)
    with RunContext(loaded, inputs) as context:
        stage: Any = loaded.job.stages["rl"]
        channel = _channel(context, "rl", stage, renderer, {"policy": group}, pool)
    assert prompts[0] == first.prompt.id
    assert channel._tokens == (tuple(range(116, 140)),) * 4
