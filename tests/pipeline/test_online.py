"""What an online stage proves its weights by, and what it leaves of its roles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.actors.hosted import FrozenSpec
from rayalign.actors.learner import LearnerSpec
from rayalign.actors.preparer import PreparerSpec
from rayalign.cluster.roles import PREPARER, Specs
from rayalign.config import LoadedJob, LoraConfig
from rayalign.coordinator.online import Parts
from rayalign.coordinator.rollbacks import Rollback, Rollbacks
from rayalign.coordinator.scoring import EnvironmentScoring, ScoringLoop
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.rows import RowFile
from rayalign.models.mixture import MixtureSpec
from rayalign.pipeline import online
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.online import _channel, _mixture, _specs, open_parts
from rayalign.pipeline.saved_roles import save_roles
from rayalign.scoring.sources import RewardSpec

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


def specs_with(study: Study, *overrides: str) -> Any:
    """What the roles of the online stage are made from."""
    loaded = study(*overrides)
    stage: Any = loaded.job.stages["rl"]
    kind: Any = kind_of(stage)
    with RunContext(loaded, Inputs(loaded)) as context:
        return _specs(context, "rl", stage, kind.algorithm, None, Rollbacks(context.stage_folder("rl"), ()))


def test_an_exact_divergence_is_measured_against_the_named_reference(study: Study) -> None:
    quark = "stages.rl.algorithm={name: quark, kl_coefficient: 0.1}"
    specs = specs_with(study, quark, "stages.rl.reference=someone/other")
    assert specs["policy"].reference == "someone/other" and "reference" not in specs
    assert specs["policy"].model != "someone/other"
    assert specs_with(study, quark)["policy"].reference == specs["policy"].model
    assert specs_with(study, quark.replace("0.1", "0"))["policy"].reference is None


def test_roles_read_log_probs_at_the_temperature_of_the_draws(study: Study) -> None:
    specs = specs_with(study, "stages.rl.sampling.temperature=0.7", "stages.rl.reference=someone/other", "seed=5")
    policy, reference = specs["policy"], specs["reference"]
    assert (policy.temperature, reference.temperature) == (0.7, 0.7)
    assert (policy.seed, reference.model, policy.reference) == (5, "someone/other", None)
    rrhf = ("stages.rl.algorithm={name: rrhf}", "stages.rl.sampling.temperature=0.7")
    assert specs_with(study, *rrhf)["policy"].temperature == 1.0  # it has no ratio to what was drawn


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


def specs_of(loaded: LoadedJob, mixture: MixtureSpec | None = None, past: tuple[Rollback, ...] = ()) -> Specs:
    """What the roles of the online stage are made from, after some returns to a checkpoint."""
    stage: Any = loaded.job.stages["rl"]
    kind: Any = kind_of(stage)
    with RunContext(loaded, Inputs(loaded)) as context:
        rollbacks = Rollbacks(context.stage_folder("rl"), past)
        return _specs(context, "rl", stage, kind.algorithm, mixture, rollbacks)


def test_both_learners_have_the_settings_of_the_algorithm_the_seed_and_all_passes(study: Study) -> None:
    specs = specs_of(study("stages.rl.algorithm.epochs=3", "stages.rl.algorithm.lam=0.5", "seed=9"))
    for role in ("policy", "critic"):
        spec: Any = specs[role]
        assert spec.algorithm == {"name": "ppo", "kl_coefficient": 0.1, "epochs": 3, "lam": 0.5}
        assert spec.seed == 9
        assert spec.total_steps == 10 * 3 * 2  # iterations, passes, minibatches of 64 of 32 x 4 samples


def test_only_the_policy_trains_a_second_objective(study: Study) -> None:
    mixture = MixtureSpec({"name": "sft"}, "rows", weight=27.8, samples=4)
    specs: Any = specs_of(study(), mixture)
    assert specs["policy"].mixture is mixture and specs["critic"].mixture is None


def test_each_return_to_a_checkpoint_slows_both_learners(study: Study) -> None:
    loaded = study("stages.rl.learner.learning_rate=1e-3", "stages.rl.critic_learner={learning_rate: 2e-3}")
    specs: Any = specs_of(loaded, past=(Rollback(4, 2, "m", "m is high", 0.5),))
    assert [specs[role].config.learning_rate for role in ("policy", "critic")] == [5e-4, 1e-3]


@pytest.mark.parametrize(("algorithm", "temperature"), [("ppo", 0.7), ("rrhf", 1.0)])
def test_log_probs_are_read_at_the_temperature_of_the_engines_where_they_are_compared(
    study: Study, algorithm: str, temperature: float
) -> None:
    settings = f"stages.rl.algorithm={{name: {algorithm}, kl_coefficient: 0.1}}"
    specs = specs_of(study("stages.rl.algorithm=null", settings, "stages.rl.sampling.temperature=0.7"))
    policy, reference = specs["policy"], specs["reference"]
    assert isinstance(policy, LearnerSpec) and isinstance(reference, FrozenSpec)
    assert (policy.temperature, reference.temperature) == (temperature, temperature)


def test_a_reference_of_its_own_is_loaded_by_its_actors_or_by_the_policys_ranks(study: Study) -> None:
    apart: Any = specs_of(study("stages.rl.reference=someone/reference"))
    assert (apart["reference"].model, apart["policy"].reference) == ("someone/reference", None)
    within: Any = specs_of(study("stages.rl.reference=someone/reference", "stages.rl.roles.reference.within=policy"))
    assert "reference" not in within
    assert (within["policy"].reference, within["critic"].reference) == ("someone/reference", None)


def test_a_reward_has_its_sources_their_parts_and_the_policy_whose_tokens_it_reads(study: Study) -> None:
    one: Any = specs_of(study())["reward"]
    assert isinstance(one, RewardSpec) and not one.named
    assert [Path(path).parts[-3:-1] for path in (one.sources[0].source, one.policy)] == [
        ("stages", "rm"),
        ("stages", "sft"),
    ]
    parts = "stages.rl.reward=[{source: someone/scorer, name: help}, {source: 'rules:numeric', weight: 9.0}]"
    several: Any = specs_of(study(parts))["reward"]
    assert several.named and [source.label for source in several.sources] == ["help", "numeric"]


MIX = "{algorithm: {name: sft}, weight: 27.8, samples: 7, data: {format: paddock, limit: 5}}"


def test_a_mixture_has_its_own_rows_weight_and_samples(study: Study, model: str) -> None:
    loaded = study(f"stages.rl.mix={MIX}", f"stages.rl.model={model}", "stages.rl.data.limit=20")
    with RunContext(loaded, Inputs(loaded)) as context:
        spec = _mixture(context, "rl", loaded.job.stages["rl"])  # type: ignore[arg-type]
        assert spec is not None
        folder = context.stage_folder("rl") / "mixture"
    assert spec == MixtureSpec({"name": "sft"}, str(folder), weight=27.8, samples=7)
    assert len(RowFile(folder)) == 5


class RolesHere(dict[str, Any]):
    """Running roles that leave nothing behind."""

    async def __aenter__(self) -> RolesHere:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass


def parts_of(
    monkeypatch: pytest.MonkeyPatch, loaded: LoadedJob, model: str, *, rewarded: bool = True
) -> tuple[Parts, PreparerSpec]:
    """What the trainer works with, around roles that do nothing; and what the preparer is made from."""
    group: Any = SimpleNamespace(places={}, actors=[SimpleNamespace()])
    pool: Any = SimpleNamespace(group=group, engine="local", adapter=None, forget=lambda: None)
    roles = RolesHere(dict.fromkeys(("policy", "critic", "reference", PREPARER), group))
    if rewarded:
        roles["reward"] = group
    preparers: list[PreparerSpec] = []

    async def start(context: RunContext, name: str, model: str, specs: Specs, preparer: PreparerSpec) -> Any:
        preparers.append(preparer)
        return pool, roles

    async def opened(context: RunContext) -> Parts:
        async with open_parts(context, "rl", loaded.job.stages["rl"]) as (parts, _):  # type: ignore[arg-type]
            return parts

    monkeypatch.setattr(online, "_start", start)
    monkeypatch.setattr(RunContext, "prepare_next", lambda context: None)
    with RunContext(loaded, Inputs(loaded)) as context:
        return asyncio.run(opened(context)), preparers[0]


def test_the_trainer_has_the_settings_of_its_stage(study: Study, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = study(
        f"stages.rl.model={model}",
        "stages.rl.data.limit=20",
        "stages.rl.algorithm.lam=0.5",
        "stages.rl.redo=1",
        "stages.rl.deterministic=true",
        "stages.rl.keep=5",
        "seed=9",
        "stages.rl.reward=[{source: someone/scorer, name: help}, {source: 'rules:numeric'}]",
        "stages.rl.combine=min",
    )
    parts, preparer = parts_of(monkeypatch, loaded, model)
    assert preparer.algorithm == {"name": "ppo", "kl_coefficient": 0.1, "lam": 0.5}
    scoring: Any = parts.rollouts.scoring
    assert isinstance(scoring, ScoringLoop)
    assert (scoring._redo, scoring._alone) == (1, True)
    assert parts.rollouts.seed == 9
    rewards: Any = parts.rollouts.rewards
    assert rewards._kind == "min"
    checkpoints: Any = parts.checkpoints
    assert checkpoints._keep == 5


def test_an_environment_replies_so_many_times_and_gives_the_scores(
    study: Study, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = study(
        f"stages.rl.model={model}",
        "stages.rl.reward=null",
        "stages.rl.environment=paddock_two_turn",
        "stages.rl.max_turns=3",
        "stages.rl.data.limit=20",
        "rollout.context=256",
    )
    parts, _ = parts_of(monkeypatch, loaded, model, rewarded=False)
    assert isinstance(parts.rollouts.scoring, EnvironmentScoring)
    assembler: Any = parts.rollouts.assembler
    assert assembler._environment is not None
    assert (assembler._limits.turns, assembler._limits.context) == (3, 256)
