"""The stage that compares models on the same unseen prompts; its figures are the run's summary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rayalign.cluster.turns import AFTER_ROLLOUT
from rayalign.config import (
    ANNOTATOR,
    BestOf,
    DataConfig,
    EvaluateStage,
    Job,
    RewardSource,
    RoleConfig,
    SamplingConfig,
    nearest,
)
from rayalign.pipeline import best_of
from rayalign.pipeline.beams import beam_problems
from rayalign.pipeline.host_checks import host_problems
from rayalign.pipeline.kind import FIGURES, LANGUAGE_MODEL, REWARD_MODEL, Output, Problem, Read, StageKind
from rayalign.pipeline.needs import AnnotatorRead, RoleNeed, generator
from rayalign.pipeline.profiles import all_models
from rayalign.pipeline.profiles import problems as profile_problems

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext


class EvaluateKind(StageKind[EvaluateStage]):
    """Figures of several models; the pool loads them one after another."""

    def reads(self) -> Sequence[Read]:
        stage = self.stage
        reads = [Read(key, model, (LANGUAGE_MODEL,)) for key, model in all_models(stage)]
        if self._reward_model:
            reads.append(Read("reward", self._reward_model, (REWARD_MODEL,)))
        if stage.perplexity:
            reads.append(Read("perplexity", stage.perplexity, (LANGUAGE_MODEL,)))
        for key, choice in self._choices():
            reads += best_of.reads(choice, key)
        return reads

    def _choices(self) -> Iterator[tuple[str, BestOf]]:
        """Each section `best_of` with its key."""
        for name, choice in self.stage.best_of.items():
            yield f"best_of.{name}", choice

    def outputs(self) -> dict[str, Output]:
        return {"": Output(FIGURES, "records.jsonl")}

    def batch(self) -> str:
        written = f"{len(self.stage.names)} models, one answer each to the same prompts"
        for name, choice in self.stage.best_of.items():
            written += f"; {name} writes {choice.n} and takes the best"
        return written

    def compares(self) -> Mapping[str, str]:
        return self.stage.models

    def answers(self, rows: int) -> int:
        choices = self.stage.best_of
        return rows * sum(choices[name].n if name in choices else 1 for name in self.stage.names)

    @property
    def data(self) -> DataConfig:
        return self.stage.data

    @property
    def data_use(self) -> Use:
        return "prompts"

    @property
    def sampling(self) -> SamplingConfig:
        return self.stage.sampling

    @property
    def environment(self) -> str | None:
        return self.stage.environment

    def annotators(self) -> Sequence[AnnotatorRead]:
        reads = [AnnotatorRead("annotator", judge) for judge in self.stage.judges]
        if self.stage.reward and self.stage.reward.startswith(ANNOTATOR):
            reads.append(AnnotatorRead("reward", self.stage.reward.removeprefix(ANNOTATOR), scores=True))
        for key, choice in self._choices():
            reads += best_of.annotators(choice, key)
        return reads

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        stage = self.stage
        needs = [generator(job, next(iter(stage.models.values())))]
        needs += best_of.reward_role(stage, self._actor_sources())
        if stage.perplexity:
            host = stage.roles.get("reference", RoleConfig())
            needs.append(RoleNeed("reference", stage.perplexity, host, stage.reader, presence=AFTER_ROLLOUT))
        return needs

    def _actor_sources(self) -> list[RewardSource]:
        """What `reward` actors ask for scores of the answers."""
        sources: list[RewardSource] = []
        if self.stage.metric == "reward" and self._reward_model:
            sources.append(RewardSource(source=self._reward_model))
        for choice in self.stage.best_of.values():
            if choice.n > 1:
                sources += best_of.actor_sources(choice)
        return sources

    def prompt_models(self) -> Sequence[str]:
        return [model for _, model in all_models(self.stage)]

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [(read.key, read.value) for read in self.reads()]

    def problems(self) -> Iterator[Problem]:
        stage = self.stage
        yield from profile_problems(stage)
        yield from host_problems(stage.roles, runs=["reward", "reference"], sources=self._actor_sources())
        for name in stage.names:
            if "@" in name:
                yield "models", f"{name!r} holds an @, which stands before a profile in the results; name it otherwise"
        names = [*stage.names, *stage.baselines]
        for name in stage.against:
            if name not in names:
                yield "against", f"{name!r} is neither in models nor in baselines; {nearest(name, names)}"
        most = max([1, *(choice.n for choice in stage.best_of.values())])
        yield from beam_problems(most, stage.sampling, "sampling")
        for name in stage.best_of:
            if name not in stage.models:
                yield f"best_of.{name}", f"there is no such model in models; {nearest(name, list(stage.models))}"
        for key, choice in self._choices():
            yield from best_of.problems(choice, key)
        if stage.metric == "reward" and stage.reward is None:
            yield "reward", "the metric reward needs what scores; name a stage, a folder, annotator:NAME or rules:KIND"

    @property
    def _reward_model(self) -> str | None:
        """The reward where it is a model."""
        reward = self.stage.reward
        return reward if reward and RewardSource(source=reward).form == "model" else None

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.pipeline.figures import evaluate

        return asyncio.run(evaluate(context, name, self.stage))


KIND = EvaluateKind
