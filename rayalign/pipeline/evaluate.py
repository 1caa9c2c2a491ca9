"""The stage that compares models on the same unseen prompts; its figures are the run's summary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rayalign.cluster.turns import AFTER_ROLLOUT
from rayalign.config import DataConfig, EvaluateStage, Job, RewardSource, RoleConfig, SamplingConfig, nearest
from rayalign.pipeline.kind import (
    FIGURES,
    LANGUAGE_MODEL,
    REWARD_MODEL,
    AnnotatorRead,
    Output,
    Problem,
    Read,
    RoleNeed,
    StageKind,
    generator,
)
from rayalign.types import Role

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext


class EvaluateKind(StageKind[EvaluateStage]):
    """Figures of several models; the pool loads them one after another."""

    def reads(self) -> Sequence[Read]:
        stage = self.stage
        reads = [Read(f"models.{name}", model, (LANGUAGE_MODEL,)) for name, model in stage.models.items()]
        if self._reward_model:
            reads.append(Read("reward", self._reward_model, (REWARD_MODEL,)))
        if stage.perplexity:
            reads.append(Read("perplexity", stage.perplexity, (LANGUAGE_MODEL,)))
        return reads

    def outputs(self) -> dict[str, Output]:
        return {"": Output(FIGURES, "records.jsonl")}

    def batch(self) -> str:
        return f"{len(self.stage.models)} models, one answer each to the same prompts"

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
        return [AnnotatorRead("annotator", self.stage.annotator)] if self.stage.annotator else []

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        stage = self.stage
        needs = [generator(job, next(iter(stage.models.values())))]
        if stage.metric == "reward" and self._reward_model:
            needs.append(self._reader("reward", self._reward_model))
        if stage.perplexity:
            needs.append(self._reader("reference", stage.perplexity))
        return needs

    def _reader(self, role: Role, model: str) -> RoleNeed:
        """A model that reads the answers, once all are written."""
        host = self.stage.roles.get(role, RoleConfig())
        return RoleNeed(role, model, host, self.stage.reader, presence=AFTER_ROLLOUT)

    def prompt_models(self) -> Sequence[str]:
        return list(self.stage.models.values())

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [(read.key, read.value) for read in self.reads()]

    def problems(self) -> Iterator[Problem]:
        stage = self.stage
        names = [*stage.models, *stage.baselines]
        for name in stage.against:
            if name not in names:
                yield "against", f"{name!r} is neither in models nor in baselines; {nearest(name, names)}"
        if stage.metric == "reward" and stage.reward is None:
            yield "reward", "the metric reward needs a reward model or rules; name a stage, a folder or rules:KIND"
        if stage.reward and RewardSource(source=stage.reward).form == "annotator":
            yield "reward", "an annotator compares answers here; write it as annotator, not as reward"

    @property
    def _reward_model(self) -> str | None:
        """The reward where it is a model."""
        reward = self.stage.reward
        return reward if reward and RewardSource(source=reward).form == "model" else None

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.pipeline.figures import evaluate

        return asyncio.run(evaluate(context, name, self.stage))


KIND = EvaluateKind
