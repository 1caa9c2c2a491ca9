"""The stage that trains by one algorithm: online with the live policy in the loop, or offline on given rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rayalign.algorithms.base import Algorithm, load
from rayalign.cluster.threads import IDLE_ENGINES, EngineThreads
from rayalign.config import (
    ANNOTATOR,
    DataConfig,
    Job,
    LearnerConfig,
    RewardSource,
    RoleConfig,
    SamplingConfig,
    SourceForm,
    TrainStage,
)
from rayalign.errors import InputError
from rayalign.pipeline import train_batches, train_checks
from rayalign.pipeline.kind import (
    ADAPTER,
    CANDIDATES,
    COMPARISONS,
    CRITIC,
    LANGUAGE_MODEL,
    REWARD_MODEL,
    SCORED,
    Output,
    Problem,
    Read,
    StageKind,
)
from rayalign.pipeline.needs import GENERATOR, AnnotatorRead, RoleNeed, generator
from rayalign.pipeline.train_models import made_model, starting_models, suitable_rewards
from rayalign.types import Role

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext

_ORDER: tuple[Role, ...] = ("policy", "critic", "reference", "reward")
MAIN = "model"
"""folder of the main output"""


class TrainKind(StageKind[TrainStage]):
    """One training; what it runs and makes follows from its algorithm."""

    def __init__(self, stage: TrainStage) -> None:
        super().__init__(stage)
        self._algorithm: Algorithm[Any] | None = None
        self._refusal: InputError | None = None
        try:
            self._algorithm = load(stage.algorithm)
        except InputError as error:  # one of the stage's problems; its references are still worth a look
            self._refusal = error

    @property
    def algorithm(self) -> Algorithm[Any]:
        """The stage's algorithm.

        Raises:
            InputError: there is none of that name, or its settings are wrong.
        """
        if self._algorithm is None:
            assert self._refusal is not None
            raise self._refusal
        return self._algorithm

    def reads(self) -> Sequence[Read]:
        stage, language = self.stage, (LANGUAGE_MODEL,)
        reads = [Read("model", stage.model, starting_models(self._algorithm, self.trained[0]))]
        if stage.reference:
            reads.append(Read("reference", stage.reference, language))
        for place, (key, source) in enumerate(self._rewards("model")):
            reads.append(Read(key, source.source, suitable_rewards(stage, self._algorithm, place)))
        if stage.critic:
            reads.append(Read("critic", stage.critic, (LANGUAGE_MODEL, REWARD_MODEL, CRITIC)))
        if stage.examples:
            rows = (COMPARISONS, SCORED) if self._needs_verdicts or stage.answers else (CANDIDATES, COMPARISONS, SCORED)
            reads.append(Read("examples", stage.examples, rows))
        return reads

    def outputs(self) -> dict[str, Output]:
        trained = self.trained
        outputs = {"": Output(made_model(self._algorithm, trained[0]), MAIN)}
        for role in trained:
            outputs[role] = Output(made_model(self._algorithm, role), MAIN if role == trained[0] else role)
        if self.learner(trained[0]).lora is not None:
            outputs["adapter"] = Output(ADAPTER, f"{MAIN}/adapter")
        if self.learner(trained[0]).ema is not None:
            outputs["ema"] = Output(made_model(self._algorithm, trained[0]), f"{MAIN}/ema")
        return outputs

    @property
    def trained(self) -> Sequence[Role]:
        """The roles that are trained and saved; the first one is the stage's result."""
        if self._algorithm is None:
            return ["policy"]
        return self._algorithm.trains if self.stage.online else self._algorithm.trains[:1]

    def source(self, role: str) -> str | None:
        return self.models()[role] if role not in ("", "adapter", "ema") else self.stage.model

    def models(self) -> dict[str, str | None]:
        """Which model each role starts from; None where the job names none though one is needed."""
        stage, algorithm = self.stage, self.algorithm
        reward_models = [source.source for _, source in self._rewards("model")]
        warm_start = reward_models[0] if reward_models else None
        other_rewards = [source.source or f"rules:{source.label}" for source in stage.rewards]
        sources: dict[Role, str | None] = {
            "policy": stage.model,
            "critic": stage.critic or warm_start or stage.model,
            "reference": stage.reference or stage.model,
            "reward": next(iter(reward_models + other_rewards), None),
            algorithm.trains[0]: stage.model,
        }
        running = set(algorithm.roles)
        if stage.online and stage.reward:
            running.add("reward")
        elif stage.online and stage.environment:
            running.discard("reward")  # the environment gives the scores
        if self._reference_is_policy:
            running.discard("reference")
        models: dict[str, str | None] = {role: sources[role] for role in _ORDER if role in running}
        return {**models, GENERATOR: stage.model} if stage.online else models

    def policy_readers(self) -> Mapping[str, str]:
        models = self.models()
        return {role: model for role in ("critic", "reference") if (model := models.get(role)) is not None}

    @property
    def training(self) -> TrainKind:
        return self

    def learners(self) -> dict[str, LearnerConfig]:
        critic = {"critic_learner": self.stage.critic_learner} if self.stage.critic_learner else {}
        return {"learner": self.stage.learner, **critic}

    def steps(self, rows: int | None) -> int | None:
        return train_batches.steps(self.stage, self.algorithm, rows)

    def learner(self, role: str) -> LearnerConfig:
        """The section that a role is trained, or only evaluated, by."""
        if role == "critic":
            return self.stage.critic_learner or self.stage.learner.model_copy(update={"ema": None})
        return self.stage.learner

    def host(self, role: Any) -> RoleConfig:
        """How a role other than the generator is hosted."""
        return self.stage.roles.get(role, RoleConfig())

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        needs = []
        for role, model in self.models().items():
            if role == GENERATOR:
                needs.append(generator(job, self.stage.model))
            elif role == "reference" and model and self.reference_in_learner:
                needs.append(self._reference_within(model))
            elif model:
                host, learner = self.host(role), self.learner(role)
                trained, further = role in self.algorithm.trains, self._further_models(role)
                only_models = role != "reward" or all(source.form == "model" for source in self.stage.rewards)
                needs.append(RoleNeed(role, model, host, learner, trained, further, only_models=only_models))
        return needs

    def engine_threads(self, job: Job) -> EngineThreads:
        if not self.stage.online:
            return IDLE_ENGINES
        busy = job.rollout.engines * job.rollout.threads
        return EngineThreads(update=busy if self.stage.max_staleness else 0, score=busy)

    @property
    def reference_in_learner(self) -> bool:
        """Offline, and online where the KL is exact or the job says so, the reference runs in the learner's ranks."""
        stage, needs = self.stage, self.algorithm.needs
        return not stage.online or "exact_kl" in needs or self.host("reference").within is not None

    def _reference_within(self, model: str) -> RoleNeed:
        """The reference in the learner's ranks; its stored outputs are computed before the learner needs the memory."""
        learner = self.algorithm.trains[0]
        memory = 0 if not self.stage.online and self.stage.reference_outputs == "stored" else None
        host = self.host(learner).model_copy(update={"spread": self.stage.learner.zero_stage == 3})
        return RoleNeed("reference", model, host, self.stage.learner, memory=memory, within=learner)

    @property
    def data(self) -> DataConfig:
        return self.stage.data

    @property
    def data_use(self) -> Use | None:
        if self.stage.examples or self._algorithm is None:
            return None
        if self.stage.online:
            return "prompts"
        if "desirability" in self._algorithm.needs:
            return "feedback"
        single = self._algorithm.unit == "sequence" and not self._needs_verdicts and self.stage.answers is None
        return "demonstrations" if single else "comparisons"

    def further_data(self) -> Sequence[tuple[str, DataConfig, Use]]:
        return [("mix.data", self.stage.mix.data, "demonstrations")] if self.stage.mix else []

    @property
    def reward_tokens(self) -> int:
        if self.stage.answers == "conditioned":
            return 2
        return self._algorithm.reward_tokens if self._algorithm else 0

    @property
    def sampling(self) -> SamplingConfig | None:
        return self.stage.sampling if self.stage.online else None

    @property
    def environment(self) -> str | None:
        return self.stage.environment if self.stage.online else None

    def annotators(self) -> Sequence[AnnotatorRead]:
        reads = []
        alone = self.stage.candidates_per_prompt < 2  # with which an annotator has nothing to compare
        for key, source in self._rewards("annotator"):
            if source.source.startswith(ANNOTATOR):
                reads.append(AnnotatorRead(key, source.source.removeprefix(ANNOTATOR), scores=alone))
        return reads

    def prompt_models(self) -> Sequence[str]:
        return [self.stage.model]

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        needed = [("model", self.stage.model)]
        needed += [(key, source.source) for key, source in self._rewards("model")]
        return needed

    def settings(self) -> dict[str, Any]:
        settings = {"algorithm": _settings(self.algorithm)}
        return settings | ({"mix": {"algorithm": _settings(load(self.stage.mix.algorithm))}} if self.stage.mix else {})

    def problems(self) -> Iterator[Problem]:
        if self._refusal is not None:
            for line in str(self._refusal).splitlines():
                yield "algorithm", line
            return
        yield from train_checks.problems(self.stage, self.algorithm, self.models())

    def device_problems(self, job: Job) -> Iterator[Problem]:
        if self._algorithm is not None and self.stage.online and job.cluster.share_devices:
            yield from train_checks.shared_device_problems(self.stage, self._algorithm)

    def batch(self) -> str:
        return train_batches.text(self.stage, self.algorithm, stores_reference=self._stores_reference)

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        if self.stage.online:
            from rayalign.pipeline.online import train_online

            return asyncio.run(train_online(context, name, self.stage))
        from rayalign.pipeline.offline import train_offline

        return train_offline(context, name, self.stage)

    def _rewards(self, form: SourceForm) -> list[tuple[str, RewardSource]]:
        """Key and source of each part of the reward that has a form."""
        sources = enumerate(self.stage.rewards)
        return [(self.stage.reward_key(index), source) for index, source in sources if source.form == form]

    def _further_models(self, role: str) -> tuple[str, ...]:
        """Reward models beside the first one: all parts of a reward run in the same actor."""
        models = list(dict.fromkeys(source.source for _, source in self._rewards("model")))
        return tuple(models[1:]) if role == "reward" else ()

    @property
    def _reference_is_policy(self) -> bool:
        """A policy that trains an adapter is its own reference, with the adapter off."""
        stage = self.stage
        return stage.online and stage.learner.lora is not None and stage.reference is None

    @property
    def _stores_reference(self) -> bool:
        return "reference" in self.algorithm.roles and self.stage.reference_outputs == "stored"

    @property
    def _needs_verdicts(self) -> bool:
        return self._algorithm is not None and bool(self._algorithm.needs & {"scores", "preferences", "desirability"})


def _settings(algorithm: Algorithm[Any]) -> dict[str, Any]:
    """The settings of an algorithm, defaults too, and the revision of its mathematics."""
    return {**algorithm.config.model_dump(mode="json"), "revision": algorithm.revision}


KIND = TrainKind
