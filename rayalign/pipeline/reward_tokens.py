"""The stage that gives a model reward tokens."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayalign.config import Job, RewardTokensStage
from rayalign.models.catalogue import ModelShape
from rayalign.pipeline.kind import LANGUAGE_MODEL, Output, Read, StageKind, shape_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rayalign.pipeline.context import RunContext
    from rayalign.pipeline.inputs import Inputs


class RewardTokensKind(StageKind[RewardTokensStage]):
    """The same model with further embeddings; it runs in the process of the run itself and needs no cluster."""

    def reads(self) -> Sequence[Read]:
        return [Read("model", self.stage.model, (LANGUAGE_MODEL,))]

    def outputs(self) -> dict[str, Output]:
        return {"": Output(LANGUAGE_MODEL, "model")}

    def batch(self) -> str:
        return f"{self.stage.model} with {self.stage.count} reward tokens"

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [("model", f"stage:{name}")]

    def shape(self, job: Job, role: str) -> ModelShape | None:
        shape = shape_in(job, self.stage.model)
        return replace(shape, vocabulary=shape.vocabulary + self.stage.count) if shape else None

    def make_tokenizer(self, inputs: Inputs, name: str, role: str) -> PreTrainedTokenizerBase:
        from rayalign.data.reward_tokens import with_reward_tokens

        return with_reward_tokens(inputs.tokenizer(self.stage.model), self.stage.count)

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.models.reward_tokens import add_reward_tokens
        from rayalign.models.verify import verify_saved
        from rayalign.weights.files import model_folder

        target = context.stage_folder(name) / self.outputs()[""].path
        shutil.rmtree(target, ignore_errors=True)  # a kill may have come between this and done.json
        source = model_folder(context.model(self.stage.model))
        add_reward_tokens(source, target, self.stage.count, seed=context.job.seed)
        verify_saved(target)
        return {}


KIND = RewardTokensKind
