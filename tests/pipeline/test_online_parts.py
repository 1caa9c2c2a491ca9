"""Which settings of a job reach which part of an online stage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.cluster.roles import PREPARER
from rayalign.config import LoadedJob
from rayalign.coordinator.order import PromptOrder
from rayalign.coordinator.recovery import Resumption
from rayalign.coordinator.rollbacks import FILE, Rollback, Rollbacks
from rayalign.coordinator.scoring import EnvironmentScoring, ScoringLoop
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import ActorError, LostError
from rayalign.pipeline import online
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.online import _specs, open_parts, train_online
from rayalign.rollout.paddock_two_turn import PaddockTwoTurn
from rayalign.storage.records import encode
from rayalign.weights.probe import Bound
from tests.pipeline.test_online import Group

Study = Callable[..., LoadedJob]


class FakeRoles(dict[str, Any]):
    """The roles of a stage, none of which computes."""

    async def __aenter__(self) -> FakeRoles:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass


class FakeContext(RunContext):
    """A run whose engines and roles are those that the test gives it; `log` has what happens to them."""

    def __init__(self, loaded: LoadedJob) -> None:
        super().__init__(loaded, Inputs(loaded))
        self.log: list[str] = []
        self.failures: list[Exception] = []
        self.specs: Any = None
        self.preparer: Any = None
        group = SimpleNamespace(places={}, actors=["engine"])
        pool: Any = SimpleNamespace(
            group=group,
            engine="local",
            adapter=None,
            renew="of an earlier stage",
            forget=lambda: self.note("forgotten"),
        )
        self._pool = pool

    def note(self, what: str) -> None:
        self.log.append(what)

    async def engines(self, model: str) -> Any:
        self.note("engines start")
        await asyncio.sleep(0)
        self.note("engines ready")
        return self._pool

    async def start_roles(self, name: str, specs: Any, preparer: Any = None) -> Any:
        self.note("roles start")
        self.specs, self.preparer = specs, preparer
        if self.failures:
            raise self.failures.pop(0)
        roles = FakeRoles({PREPARER: SimpleNamespace(places={})})
        for role in specs:
            group: Any = Group(role)
            group.places, group.spread = {}, False
            roles[role] = group
        return roles

    def prepare_next(self) -> None:
        pass

    def stop_pool(self) -> None:
        """The fake engines live as long as the test."""


@contextmanager
def run_of(loaded: LoadedJob) -> Iterator[FakeContext]:
    with FakeContext(loaded) as context:
        build_tokenizer().save_pretrained(context.model("stage:sft"))
        yield context


def parts_of(context: FakeContext) -> Any:
    """The parts of the stage `rl`, as they are while it runs."""

    async def opened() -> Any:
        stage: Any = context.job.stages["rl"]
        async with open_parts(context, "rl", stage) as (parts, _):
            return parts

    return asyncio.run(opened())


def test_each_wait_of_an_online_stage_has_the_deadline_of_the_job(study: Study) -> None:
    with run_of(study("cluster.call_timeout=111", "cluster.transfer_timeout=222")) as context:
        parts = parts_of(context)
    assert context.preparer.timeout == parts.rollouts.timeout == parts.rollouts.assembler._timeout == 111
    assert {role: spec.timeout for role, spec in context.specs.items()} == dict.fromkeys(context.specs, 111)
    assert set(context.specs) == {"policy", "critic", "reference", "reward"}
    assert parts.channel._path.timeout == 222


def test_checkpoints_and_scores_are_kept_and_redone_as_often_as_the_stage_has_it(study: Study) -> None:
    with run_of(study("stages.rl.keep=5", "stages.rl.redo=7", "stages.rl.deterministic=true")) as context:
        parts = parts_of(context)
    scoring = parts.rollouts.scoring
    assert isinstance(scoring, ScoringLoop)
    assert (parts.checkpoints._keep, scoring._redo, scoring._alone) == (5, 7, True)
    with run_of(study()) as context:
        assert not parts_of(context).rollouts.scoring._alone


@pytest.mark.parametrize(
    ("overrides", "waits"),
    [((), True), (("rollout.gpus=1",), False), (("stages.rl.roles={reward: {gpus: 1}}",), False)],
)
def test_groups_wait_for_each_other_only_where_engines_and_reward_share_cores(
    study: Study, overrides: tuple[str, ...], waits: bool
) -> None:
    devices = "cluster.logical_devices={count: 4, bytes: 1000000000}"
    with run_of(study(devices, *overrides)) as context:
        scoring = parts_of(context).rollouts.scoring
    assert isinstance(scoring, ScoringLoop)
    assert bool(scoring._patience) == waits


@pytest.mark.parametrize(("in_flight", "restarts"), [("restart", True), ("continue", False), ("wait", False)])
def test_engines_write_answers_anew_only_where_the_stage_has_it(study: Study, in_flight: str, restarts: bool) -> None:
    overlap = f"stages.rl.overlap={{in_flight: {in_flight}}}"
    with run_of(study("stages.rl.max_staleness=1", overlap)) as context:
        assert parts_of(context).channel._restarts == restarts


def test_weights_are_proven_to_the_coarser_precision_of_both_sides(study: Study) -> None:
    for precision, dtype in (("fp32", "float32"), ("bf16", "float32"), ("fp32", "bfloat16")):
        overrides = (f"stages.rl.learner.precision={precision}", f"rollout.dtype={dtype}")
        with run_of(study(*overrides, "rollout.tensor_parallel=2")) as context:
            channel = parts_of(context).channel
        assert channel._bound.value == Bound(precision, dtype).value
        assert channel._path.tensor_parallel == 2


def test_an_environment_has_its_turns_and_gives_the_scores_where_there_is_no_reward(study: Study) -> None:
    with run_of(study("stages.rl.environment=paddock_two_turn", "stages.rl.max_turns=3")) as context:
        parts = parts_of(context)
    assembler = parts.rollouts.assembler
    assert (assembler._environment, assembler._limits.turns) == (PaddockTwoTurn, 3)
    assert isinstance(parts.rollouts.scoring, ScoringLoop)
    alone = study("stages.rl.environment=paddock_two_turn", "stages.rl.reward=null")
    with run_of(alone) as context:
        assert isinstance(parts_of(context).rollouts.scoring, EnvironmentScoring)


def test_parts_of_a_reward_are_named_by_the_reward_and_combined_by_the_loop(study: Study) -> None:
    parts_reward = "stages.rl.reward=[{source: rules:numeric, weight: 2}, {source: rules:length, normalise: true}]"
    with run_of(study(parts_reward)) as context:
        rewards = parts_of(context).rollouts.rewards
    assert list(rewards._sources) == ["numeric", "length"] and rewards._kind == "weighted"
    assert context.specs["reward"].named
    with run_of(study()) as context:
        assert parts_of(context).rollouts.rewards is None
    assert not context.specs["reward"].named


def test_after_a_return_all_that_is_drawn_and_the_rates_are_other_ones(study: Study) -> None:
    loaded = study("seed=5", "stages.rl.learner.learning_rate=1e-3")
    with run_of(loaded) as context:
        folder = context.stage_folder("rl")
        folder.mkdir(parents=True)
        rollback = Rollback(3, 2, "reward/mean", "too low", rate=0.5)
        (folder / FILE).write_text(json.dumps(encode(rollback)) + "\n")
        parts = parts_of(context)
        seed = Rollbacks(folder, [rollback]).seed(5)
        expected = PromptOrder(context.inputs.fitting("rl", "stage:sft"), seed)
    assert seed != 5 and parts.rollouts.seed == seed
    assert [parts.rollouts.order[place] for place in range(8)] == [expected[place] for place in range(8)]
    assert parts.rollbacks.last == 2
    rates = {role: context.specs[role].config.learning_rate for role in ("policy", "critic")}
    assert rates == {"policy": 0.5e-3, "critic": 0.5e-3}


def test_engines_forget_the_stages_before_and_the_attempts_before(study: Study) -> None:
    with run_of(study()) as context:
        pool = parts_of(context).pool
    assert pool.renew is None
    assert context.log[-1] == "forgotten"


def test_on_shared_devices_roles_start_once_the_engines_are_ready(study: Study) -> None:
    with run_of(study()) as context:
        parts_of(context)
    assert context.log[:3] == ["engines start", "roles start", "engines ready"]
    devices = "cluster={cpus: 4, share_devices: true, logical_devices: {count: 1, bytes: 1000000000}}"
    with run_of(study(devices, "rollout.gpus=1")) as context:
        parts_of(context)
    assert context.log[:3] == ["engines start", "engines ready", "roles start"]


def test_an_online_stage_starts_again_after_a_loss(study: Study) -> None:
    with run_of(study("cluster.restarts=1")) as context:
        context.failures = [LostError("policy (pid 1) died"), ActorError("policy failed: no such column")]
        with pytest.raises(ActorError, match="no such column"):
            asyncio.run(train_online(context, "rl", context.job.stages["rl"]))  # type: ignore[arg-type]
    assert context.log.count("roles start") == 2


class Trainer:
    """Keeps what the training loop is given, and has nothing to do."""

    made: list[Trainer]

    def __init__(self, settings: Any, tracking: Any, parts: Any, *, seed: int, pad_id: int) -> None:
        self.tracking, self.seed, self.pad_id = tracking, seed, pad_id
        Trainer.made.append(self)

    async def train(self, resumption: Resumption, reported: list[dict[str, Any]]) -> None:
        self.resumption, self.reported = resumption, reported


def test_the_training_loop_goes_on_from_its_checkpoint_and_leaves_a_model(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer.made = []
    monkeypatch.setattr(online, "OnlineTrainer", Trainer)
    monkeypatch.setattr(online, "resume", lambda stage, parts: Resumption(iteration=2))
    with run_of(study("seed=5", "tracking.samples=9")) as context:
        folder = context.stage_folder("rl")
        folder.mkdir(parents=True)
        (folder / FILE).write_text(json.dumps(encode(Rollback(3, 2, "m", "text", 1.0))) + "\n")
        rows = [{"step": step, "time": 0.0, "metrics": {"reward/mean": float(step)}} for step in range(4)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        asyncio.run(train_online(context, "rl", context.job.stages["rl"]))  # type: ignore[arg-type]
        seed = Rollbacks(folder, [Rollback(3, 2, "m", "text", 1.0)]).seed(5)
        assert (folder / "model" / "weights").read_text() == "policy"
        assert (folder / "critic" / "weights").read_text() == "critic"
    (trainer,) = Trainer.made
    assert (trainer.seed, trainer.tracking.samples) == (seed, 9)
    assert trainer.pad_id == build_tokenizer().pad_token_id
    assert trainer.resumption.iteration == 2
    assert [row["step"] for row in trainer.reported] == [0, 1], "those after the checkpoint come again"


def specs_of(loaded: LoadedJob, mixture: Any = None) -> Any:
    stage: Any = loaded.job.stages["rl"]
    kind: Any = kind_of(stage)
    with RunContext(loaded, Inputs(loaded)) as context:
        return _specs(context, "rl", stage, kind.algorithm, mixture, Rollbacks(Path("."), ()))


def test_learners_know_all_their_steps_and_the_temperature_of_the_answers(study: Study) -> None:
    settings = ("stages.rl.algorithm.epochs=3", "stages.rl.iterations=5", "stages.rl.sampling.temperature=0.7")
    specs = specs_of(study(*settings))
    assert specs["policy"].total_steps == 5 * 3 * 2  # 32 prompts of 4 answers in minibatches of 64
    assert {role: spec.temperature for role, spec in specs.items() if role != "reward"} == {
        "policy": 0.7,
        "critic": 0.7,
        "reference": 0.7,
    }
    ranking = ("stages.rl.algorithm=null", "stages.rl.algorithm={name: rrhf}", settings[2])
    assert specs_of(study(*ranking))["policy"].temperature == 1.0


def test_only_the_policy_has_the_mixed_objective_and_the_reference_in_its_ranks(study: Study) -> None:
    mixture = object()
    within = "stages.rl.roles={reference: {within: policy}}"
    specs = specs_of(study(within, "stages.rl.reference=stage:base"), mixture)
    base = Path("stages") / "base" / "model"
    assert specs["policy"].mixture is mixture and specs["policy"].reference.endswith(str(base))
    assert specs["critic"].mixture is None and specs["critic"].reference is None
    assert "reference" not in specs
