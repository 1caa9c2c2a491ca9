"""The stage that adds up models, or LoRA adapters, by weight."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayalign.config import Job, MergeStage, Reference
from rayalign.pipeline.kind import (
    ADAPTER,
    AS_SOURCE,
    CRITIC,
    LANGUAGE_MODEL,
    PAIRWISE_MODEL,
    REWARD_MODEL,
    Output,
    Problem,
    Read,
    StageKind,
    shape_in,
)

if TYPE_CHECKING:
    from rayalign.pipeline.context import RunContext

ADAPTER_FOLDER = "adapter"
"""inside the folder of a model that a sum of adapters was added to"""
SHARD = 5 << 30
"""bytes of a file of weights; one that is read and one that is written are in memory at most"""


class MergeKind(StageKind[MergeStage]):
    """A weighted sum; it runs in the process of the run itself and needs no cluster."""

    def reads(self) -> Sequence[Read]:
        models = (LANGUAGE_MODEL, REWARD_MODEL, PAIRWISE_MODEL, CRITIC)
        accepts = (ADAPTER,) if self._of_adapters else models
        reads = [Read(f"models.{i}", model, accepts) for i, model in enumerate(self.stage.models)]
        if self.stage.base is not None:
            reads.append(Read("base", self.stage.base, (LANGUAGE_MODEL,)))
        return reads

    def alike(self) -> Sequence[Read]:
        return self.reads()

    def outputs(self) -> dict[str, Output]:
        if self.stage.base is not None:
            return {"": Output(LANGUAGE_MODEL, "model"), "adapter": Output(ADAPTER, f"model/{ADAPTER_FOLDER}")}
        return {"": Output(ADAPTER if self._of_adapters else AS_SOURCE, "model")}

    def source(self, role: str) -> str:
        return self.stage.base or self.stage.models[0]

    def batch(self) -> str:
        terms = [f"{weight:+g} x {model}" for model, weight in zip(self.stage.models, self.stage.shares, strict=False)]
        return " ".join(terms)

    def driver_memory(self, job: Job) -> int:
        shape = shape_in(job, self.source(""))
        return 2 * min(SHARD, 4 * shape.parameters) if shape else 0

    def problems(self) -> Iterator[Problem]:
        stage = self.stage
        count, weights = len(stage.models), len(stage.weights)
        if weights and weights != count:
            yield "weights", f"{weights} weights do not fit {count} models; give one for each"
        if not self._of_adapters and stage.base is not None:
            yield "base", "only the sum of adapters is added to a model; leave it out, or name adapters"
        if not self._of_adapters and stage.rank is not None:
            yield "rank", "only the sum of adapters has a rank to reduce; leave it out"
        if stage.mode == "factor" and stage.rank is not None:
            yield "rank", "mode factor keeps the rank of the adapters; leave it out, or take mode delta"

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.models.merge import merge_folders, merge_into
        from rayalign.models.verify import verify_adapter, verify_saved
        from rayalign.weights.files import model_folder

        stage = self.stage
        target = context.stage_folder(name) / self.outputs()[""].path
        shutil.rmtree(target, ignore_errors=True)  # a kill may have come between this and done.json
        folders = [context.model(model) for model in stage.models]
        if stage.base is not None:
            base = model_folder(context.model(stage.base))
            merge_into(base, folders, stage.shares, target, mode=stage.mode or "delta", rank=stage.rank)
        else:
            merge_folders(folders, stage.shares, target, mode=stage.mode, rank=stage.rank)
        if stage.base is None and self._of_adapters:
            verify_adapter(target)
        else:
            verify_saved(target)
        return {}

    @property
    def _of_adapters(self) -> bool:
        return self.stage.mode is not None or any(map(_is_adapter, self.stage.models))


def _is_adapter(model: str) -> bool:
    reference = Reference.parse(model)
    if reference is not None:
        return reference.role == "adapter"
    return (Path(model) / "adapter_config.json").is_file()


KIND = MergeKind
